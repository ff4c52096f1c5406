"""Checkpoints: writing and reading them, resuming and rolling back a run, and starting from trained weights."""
