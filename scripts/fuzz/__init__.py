"""Fuzzing of the decoder: mutated files, the decoders that read them, and the command."""
