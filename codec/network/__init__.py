"""Encoder and decoder networks: SEANet, ISTFT, DAC, pairs of two, the layers that they are made of, and their streams.

`Network` says what a network of your own has to offer. Nothing here imports other packages of the project.
"""

from codec.network.dac import DACNetwork
from codec.network.encoder_decoder import EncoderDecoder
from codec.network.istft import ISTFTNetwork
from codec.network.network import Network
from codec.network.seanet import SEANet

__all__ = ["DACNetwork", "EncoderDecoder", "ISTFTNetwork", "Network", "SEANet"]
