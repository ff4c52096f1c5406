"""`torch.nn.functional.linear` for a few rows on a CPU, as fast as the weights can be read.

What a stream multiplies is a frame or two by some megabytes of weights. For that MKL's matrix products take up to three
times as long as reading the weights takes on CPUs of AMD. On those of Intel they take no longer, and the ways around
them twice as long.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.network.cpu import made_by_amd

__all__ = ["linear"]

_MOST_INPUTS = 2048  # of which the library's own way is the fastest one again
_MOST_ROWS = 4


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Shape: x [..., D], weight [D', D], bias [D'] -> [..., D']."""
    outputs, inputs = weight.shape
    rows = x.reshape(-1, inputs)
    if x.device.type != "cpu" or len(rows) > _MOST_ROWS or inputs > _MOST_INPUTS or not made_by_amd():
        return F.linear(x, weight, bias)
    if len(rows) == 1 and outputs % 2 == 0:
        # In halves, as one product would become the slow one of a matrix and a vector; the vector as a transposed row,
        # as a column that lies like one takes five times as long.
        halves = weight.view(2, -1, inputs)
        y = torch.bmm(halves, rows.t().expand(2, -1, -1)).view(1, outputs)
    else:
        y = (weight @ rows.t()).t()
    return (y if bias is None else y + bias.to(y.dtype)).view(*x.shape[:-1], outputs)
