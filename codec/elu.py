"""The exponential linear unit (Clevert et al. 2016), several times as fast on a CPU as torch's."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["ELU"]


class ELU(nn.ELU):
    """x where it is positive, exp(x) - 1 elsewhere.

    torch takes expm1, of which its vectorised version costs ten times as much as exp: near 0 it keeps the relative
    error small, where here the absolute one is, 6e-8 beside a 1. The backward pass needs the output alone, which the
    convolution that follows keeps anyway, so the input can be freed.

    Shape: [*] -> [*].
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or self.alpha != 1.0:
            return super().forward(input)
        output: Tensor = _ELU.apply(input)  # type: ignore[no-untyped-call]
        return output


class _ELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        # In bfloat16 the difference to 1 would have few bits left.
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        below = wide.clamp(max=0).exp_().sub_(1)
        output = torch.maximum(below, wide, out=below).to(input.dtype)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(gradient, 1.0, 1.0, 1.0, True, output)
