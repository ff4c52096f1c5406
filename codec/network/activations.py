"""Activations of the networks, by name."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["ELU", "Activation", "Snake", "make_activation"]

Activation = Literal["elu", "relu", "snake"]

_LOWEST = -40.0  # exp of it is 0 beside 1, even in float64; exp2 of subnormal results is ten times as slow


def make_activation(name: Activation, width: int) -> nn.Module:
    """A new activation module for `width` channels: `elu` (all published EnCodec models), `relu` or `snake` (DAC)."""
    if name == "snake":
        return Snake(width)
    return ELU() if name == "elu" else nn.ReLU()


class Snake(nn.Module):
    """Snake (Ziyin et al. 2020): x + sin^2(alpha x) / alpha, periodic with a learned frequency (BigVGAN, DAC).

    Attributes:
        alpha: [1, width, 1], 1 at first.

    Shape: [B, width, T] -> [B, width, T].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, width, 1))

    def forward(self, input: Tensor) -> Tensor:
        # The offset is DAC's.
        return input + (self.alpha * input).sin().square() / (self.alpha + 1e-9)


class ELU(nn.ELU):
    """Exponential linear unit (Clevert et al. 2016) with alpha = 1: x above zero, exp(x) - 1 below.

    On a CPU it is computed with exp2 instead of expm1, which takes several times as long. Near zero that bounds the
    absolute error (6e-8) rather than the relative one. The backward pass needs the output alone.

    Shape: [*] -> [*].
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        if not torch.is_grad_enabled():
            return _elu(input)
        output: Tensor = _ELUFunction.apply(input)  # type: ignore[no-untyped-call]
        return output


class _ELUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        output = _elu(input)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        # In the memory layout of the output; without `grad_input` it would have that of the gradient.
        result = torch.empty_like(output)
        torch.ops.aten.elu_backward(gradient, 1.0, 1.0, 1.0, True, output, grad_input=result)
        return result


def _elu(input: Tensor) -> Tensor:
    # In bfloat16 the difference to 1 would have few bits left.
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    below = x.clamp(_LOWEST, 0).mul_(math.log2(math.e)).exp2_().sub_(1)
    return torch.maximum(below, x, out=below).to(input.dtype)
