"""The network: its layers, the model in PyTorch, and its file."""
