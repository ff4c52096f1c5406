"""The start of a decoder at the frame rate: the inverse of the MDCT with which the encoder begins.

Before training, the first channels between the layers are the waves of the latent, the next is its level, and the
others are constants. The blocks normalize their inputs, but constants far above the rest keep the factor of that nearly
the same for all frames. So the level reaches the output, where it becomes the gain of the waves.
"""

import math

import torch
from torch import nn

from codec.network.frame_layers import COMPRESSION, ConvNeXtBlock, FrameInput
from codec.network.istft_layers import ISTFTOutput
from codec.network.mdct import inverse_mdct_spectra

__all__ = ["begin_as_inverse_mdct"]

_CONSTANT = 4.0  # size of the constants; the waves of a frame have a sum of squares between 0.1 and 30
_LEVEL = 0.3  # of the channel with the level, relative to the feature
_WAVES = 4.0  # of the waves in the blocks, after their normalization
_INPUT_STD = 2e-3  # of the first layer's weights for the other channels


def begin_as_inverse_mdct(layers: nn.Sequential) -> None:
    """Sets the weights of a decoder: a `FrameInput`, blocks that add nothing, and an `ISTFTOutput`.

    A decoder that is too narrow for all coefficients has the lowest frequencies. One that is too narrow for any stays
    as it is.
    """
    first, output = layers[0], layers[-1]
    assert isinstance(first, FrameInput)
    assert isinstance(output, ISTFTOutput)
    conv, width = first.conv.conv, output.linear.in_features
    latent_dim = first.latent_dim
    waves = min(latent_dim, 3 * width // 4 - 1)
    if waves < 1:
        return
    level, constants = waves, width - waves - 1  # the channel after the waves, and how many follow it
    with torch.no_grad():
        conv.weight[: level + 1] = 0.0
        conv.weight[level + 1 :].normal_(0, _INPUT_STD)
        now = first.conv.left_padding  # position of the frame itself in the kernel
        channels = torch.arange(waves)
        conv.weight[channels, channels, now] = 1.0
        conv.weight[level, latent_dim, now] = _LEVEL
        conv.bias.zero_()  # type: ignore[union-attr]
        signs = torch.tensor([1.0, -1.0]).repeat(constants // 2)  # their mean is 0
        conv.bias[width - len(signs) :] = _CONSTANT * signs  # type: ignore[index]
        deviation = math.sqrt((_CONSTANT**2 * len(signs) + 1) / width)  # by which a normalization divides
        for block in layers[1:-1]:
            assert isinstance(block, ConvNeXtBlock)
            block.norm.weight[:waves] = _WAVES * deviation
        output.norm.weight[: level + 1] = deviation
        output.linear.weight.zero_()
        output.linear.bias.zero_()
        gain, real, imaginary = output.linear.weight.view(output.channels, 3, -1, width).unbind(1)
        gain[..., level] = (1 - COMPRESSION) / _LEVEL
        spectra = inverse_mdct_spectra(math.ceil(waves / output.channels), output.hop_samples, output.window)
        for i in range(waves):
            real[i % output.channels, :, i] = spectra[i // output.channels].real
            imaginary[i % output.channels, :, i] = spectra[i // output.channels].imag
