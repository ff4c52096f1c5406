"""Quantizers: residual vector quantization, nearest-code and beam search, k-means."""
