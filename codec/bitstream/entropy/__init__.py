"""Entropy coding of codes: the codings `adaptive` and `transformer`, and the training of the latter."""
