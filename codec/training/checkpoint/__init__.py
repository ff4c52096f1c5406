"""Checkpoints: files, the store, resuming, starting from a trained model, rolling back."""
