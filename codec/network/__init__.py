"""Encoder and decoder networks: SEANet and the layers that it is made of."""
