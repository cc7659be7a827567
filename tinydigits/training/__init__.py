"""Training: its configuration and presets, batches, augmentation, optimizer and loop."""
