"""Exponential moving average of the codec's weights, which is validated and exported."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from codec.model import Codec

__all__ = ["WeightAverage"]


class WeightAverage(nn.Module):
    """A codec with averaged encoder and decoder. It shares the quantizer, whose codebooks are averages already.

    torch's `AveragedModel` computes the same, but waits for the device in every step.

    Args:
        codec: Copied, so forward hooks must be registered later.
        decay: Decay per update. The first update copies the weights.

    Buffers:
        n_averaged [] int64: Number of updates, on the host.
    """

    n_averaged: Tensor

    def __init__(self, codec: Codec, decay: float) -> None:
        super().__init__()
        self.module = deepcopy(codec).eval()  # its modules alone: the quantizer below is that of the codec
        self.module.quantizer = codec.quantizer
        for layer in self.module.modules():
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()  # a copy's weights are not in one block of memory, which cuDNN needs
        self.decay = decay
        self.register_buffer("n_averaged", torch.tensor(0))

    @torch.no_grad()
    def update(self, codec: Codec) -> None:
        """Moves the average towards the weights of `codec`."""
        new_share = 1 - self.decay if self.n_averaged else 1.0
        torch._foreach_lerp_(_weights(self.module), _weights(codec), new_share)
        self.n_averaged += 1


def _weights(codec: Codec) -> list[Tensor]:
    return [*codec.encoder.parameters(), *codec.decoder.parameters()]
