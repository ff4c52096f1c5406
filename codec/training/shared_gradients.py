"""From a gradient at the codec's output on to the parameters, for strategies that measure gradients there."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight

from balancer.statistics import SharedGradient, SharedLayers
from codec.model import Codec, CodecOutput

__all__ = ["SharedGradients"]


class SharedGradients:
    """Watches a codec's training passes, so that gradients at the output of one can be taken on to its parameters.

    The last layer is the decoder's last convolution, with its effective weight: the gradient at the two factors of a
    weight norm would have another length. As the convolution is linear, that gradient is a correlation of what went
    into it with the gradient at what came out, and no backward pass through the codec is needed.

    A copy of the codec would be watched as well; make it first.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._seen: tuple[Tensor, Tensor] | None = None
        last = codec.decoder.layers[-1].conv
        assert isinstance(last, nn.Conv1d)
        self._last = last
        last.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if output.requires_grad:
            self._seen = inputs[0].detach(), output

    def at(self, output: CodecOutput) -> SharedGradient:
        """The way from the output of the newest training pass; it holds that pass's graph as long as it is kept.

        Raises:
            RuntimeError: There was no training pass since the last call.
        """
        seen, self._seen = self._seen, None
        if seen is None:
            raise RuntimeError("expected a new forward pass of the codec with gradients enabled, got none")
        return partial(self._pull, output.audio, *seen)

    def _pull(self, audio: Tensor, padded: Tensor, convolved: Tensor, gradient: Tensor, layers: SharedLayers) -> Tensor:
        """Shape: gradient [B, C, T] -> [P]."""
        gradient = gradient.to(audio.dtype)
        if layers == "all_shared":
            parameters = [parameter for parameter in self._codec.parameters() if parameter.requires_grad]
            found = torch.autograd.grad(audio, parameters, gradient, retain_graph=True, allow_unused=True)
            return torch.cat([each.flatten() for each in found if each is not None])
        # What lies between is a norm, a cut and the volume: not the codec.
        (gradient,) = torch.autograd.grad(audio, [convolved], gradient, retain_graph=True)
        conv = self._last
        shape = (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
        weight = conv1d_weight(padded.float(), shape, gradient.float(), conv.stride, dilation=conv.dilation)
        return weight.flatten()
