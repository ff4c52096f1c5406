"""Fuzzing of the decoder with mutated files."""
