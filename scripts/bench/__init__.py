"""Benchmarks: the training step, coding, streaming, data, start-up."""
