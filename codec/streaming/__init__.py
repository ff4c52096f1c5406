"""Streams: encode and decode audio piece by piece, with the state of every layer."""
