"""Networks in integers: how they are made, what they compute, and their file."""
