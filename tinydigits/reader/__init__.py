"""Reading pictures: candidates are recognized, merged or split, put into text lines, and told."""
