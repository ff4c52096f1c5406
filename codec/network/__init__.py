"""Encoder and decoder networks: SEANet, the layers that it is made of, and their streams.

`Network` says what a network of your own has to offer. Nothing here imports other packages of the project.
"""

from codec.network.network import Network
from codec.network.seanet import SEANet

__all__ = ["Network", "SEANet"]
