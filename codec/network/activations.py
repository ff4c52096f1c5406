"""The exponential linear unit (Clevert et al. 2016), with a scale (Barron 2017), made for CPUs."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from codec.network.cpu import made_by_amd

__all__ = ["CELU", "padded_celu"]

_LOWEST = -40.0  # exp of it is nothing beside 1, even in float64; where it underflows it takes ten times as long


class CELU(nn.CELU):
    """x where it is positive, alpha (exp(x / alpha) - 1) elsewhere: the ELU if alpha is 1, and near 0 a rectifier.

    torch takes expm1, which costs four to thirty times as much as exp or exp2: near 0 it keeps the relative error
    small, where here the absolute one is, 6e-8 beside an alpha. The backward pass needs the output alone, which the
    convolution that follows keeps anyway, so the input can be freed.

    Under autocast what comes out is of its dtype already, as the layer that follows would make it (unless that one is
    kept in float32: its input is rounded then).

    Shape: [*] -> [*].
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu":
            return super().forward(input)
        if not torch.is_grad_enabled():
            return _celu(input, self.alpha)
        output: Tensor = _CELU.apply(input, self.alpha)  # type: ignore[no-untyped-call]
        return output


def padded_celu(x: Tensor, alpha: float, left: int, right: int, mode: Literal["reflect", "constant"]) -> Tensor:
    """`CELU` and then `codec.network.conv.pad`, made for CPUs.

    Shape: [B, C, T] with T greater than left and right -> [B, C, left + T + right], channels side by side.
    """
    output: Tensor = _PaddedCELU.apply(x, alpha, left, right, mode)  # type: ignore[no-untyped-call]
    return output


class _CELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, alpha: float) -> Tensor:
        output = _celu(input, alpha)
        ctx.save_for_backward(output)
        ctx.alpha, ctx.dtype = alpha, input.dtype
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return _derivative(gradient, output, ctx.alpha).to(ctx.dtype), None


class _PaddedCELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float, left: int, right: int, mode: str) -> Tensor:
        batch, channels, length = x.shape
        padded = x.new_empty(batch, left + length + right, channels, dtype=_output_dtype(x)).transpose(1, 2)
        _celu(x, alpha, padded[..., left : left + length])
        for edge, inside in _edges(left, length, right):
            padded[..., edge] = padded[..., inside].flip(-1) if mode == "reflect" else 0
        ctx.save_for_backward(padded)
        ctx.settings = alpha, left, right, mode, x.dtype
        return padded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (padded,) = ctx.saved_tensors
        alpha, left, right, mode, dtype = ctx.settings
        length = padded.shape[-1] - left - right
        below = _derivative(gradient[..., left : left + length], padded[..., left : left + length], alpha)
        if mode == "reflect":
            for edge, inside in _edges(left, length, right):
                mirrored, output = gradient[..., edge].flip(-1), padded[..., inside]
                below[..., inside.start - left : inside.stop - left] += _derivative(mirrored, output, alpha)
        return below.to(dtype), None, None, None, None


def _edges(left: int, length: int, right: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Either edge of a padded signal, and what it mirrors."""
    end = left + length
    return (slice(0, left), slice(left + 1, 2 * left + 1)), (slice(end, end + right), slice(end - 1 - right, end - 1))


def _celu(input: Tensor, alpha: float, result: Tensor | None = None) -> Tensor:
    """Shape: [*] -> [*], in `result` if there is one."""
    # In bfloat16 the difference to 1 would have few bits left.
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    below = wide.clamp(_LOWEST * alpha, 0)
    if made_by_amd():
        below.mul_(math.log2(math.e) / alpha).exp2_()  # exp, which is MKL's, takes three times as long there
    elif alpha == 1:
        below.exp_()
    else:
        below.div_(alpha).exp_()
    below.sub_(1)
    if alpha != 1:
        below.mul_(alpha)
    if result is not None and result.dtype == wide.dtype:
        return torch.maximum(below, wide, out=result)
    torch.maximum(below, wide, out=below)
    return below.to(_output_dtype(input)) if result is None else result.copy_(below)


def _output_dtype(input: Tensor) -> torch.dtype:
    narrow = input.dtype == torch.float32 and torch.is_autocast_enabled("cpu")
    return torch.get_autocast_dtype("cpu") if narrow else input.dtype


def _derivative(gradient: Tensor, output: Tensor, alpha: float) -> Tensor:
    """Shape: [*] each -> [*]."""
    # As the output lies, which layers before this one may be faster with; else it would lie as the gradient does.
    result = torch.empty_like(output)
    torch.ops.aten.elu_backward(gradient, alpha, 1.0, 1 / alpha, True, output, grad_input=result)
    return result
