"""The demo and its checkpoints."""
