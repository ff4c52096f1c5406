"""Gradients of single losses at the codec's parameters, for balancing strategies that measure them there."""

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight

from balancer.statistics import SharedGradient, SharedLayers
from codec.model import Codec, CodecOutput

__all__ = ["SharedGradients"]


class SharedGradients:
    """Vector-Jacobian products from the codec's output to its parameters, for the latest training pass.

    `all_shared` is a backward pass through the codec. `last_layer` is the decoder's output layer (a `Conv1d` or a
    `Linear`) with its effective weight, because the gradients at the two factors of a weight norm have other lengths.
    The layer is linear in its weight. Its weight gradient therefore follows from its input and the gradient at its
    output, and takes no backward pass through the codec.

    A forward hook on that layer stores its input and output. Copy the codec before, or the copy has the hook as well.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._last_pass: tuple[Tensor, Tensor] | None = None
        self._layer = cast(nn.Conv1d | nn.Linear, codec.decoder.output_layer)
        self._layer.register_forward_hook(self._store)

    def _store(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if output.requires_grad:
            self._last_pass = inputs[0].detach(), output

    def at(self, output: CodecOutput) -> SharedGradient:
        """A function from a gradient at `output.audio` to one at the parameters. It keeps the graph of the pass.

        Args:
            output: Result of the latest forward pass with gradients.

        Raises:
            RuntimeError: There was no such pass since the last call.
        """
        last_pass, self._last_pass = self._last_pass, None
        if last_pass is None:
            raise RuntimeError("expected a new forward pass of the codec with gradients enabled, got none")
        return partial(self._product, output.audio, *last_pass)

    def _product(
        self, audio: Tensor, layer_input: Tensor, layer_output: Tensor, gradient: Tensor, layers: SharedLayers
    ) -> Tensor:
        """Shape: gradient [B, C, T] -> [P]."""
        gradient = gradient.to(audio.dtype)
        if layers == "all_shared":
            parameters = [parameter for parameter in self._codec.parameters() if parameter.requires_grad]
            found = torch.autograd.grad(audio, parameters, gradient, retain_graph=True, allow_unused=True)
            return torch.cat([each.flatten() for each in found if each is not None])
        # Between the layer and the audio are at most a norm, a cut and the segment's gain.
        (gradient,) = torch.autograd.grad(audio, [layer_output], gradient, retain_graph=True)
        gradient, layer_input, layer = gradient.float(), layer_input.float(), self._layer
        if isinstance(layer, nn.Linear):
            return (gradient.flatten(0, -2).T @ layer_input.flatten(0, -2)).flatten()
        shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
        return conv1d_weight(layer_input, shape, gradient, layer.stride, layer.padding, layer.dilation).flatten()
