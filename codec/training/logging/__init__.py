"""Metrics, console, samples and the live report of a run."""
