"""Entropy coding of codes: what makes an encoded file smaller than its codes, the same on every machine."""
