"""Adam on a vector of which only some entries have a gradient in a step (Kingma and Ba 2015)."""

import torch
from torch import Tensor, nn

from balancer.checks import check_range

__all__ = ["VectorAdam"]


class VectorAdam(nn.Module):
    """Adam (Kingma and Ba 2015, algorithm 1) with a separate step count for each entry.

    The entry of an absent loss keeps its momentum and its bias correction. torch.optim.Adam has one count for the whole
    vector, and its state is not in buffers.

    Buffers:
        first [M], second [M]: Moving averages of the gradients and of their squares.
        count [M]: Number of gradients so far.

    Args:
        size: Number M of entries.
        lr, betas, eps: As in `torch.optim.Adam`.

    Raises:
        ValueError: lr is out of range.
    """

    first: Tensor
    second: Tensor
    count: Tensor

    def __init__(self, size: int, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        super().__init__()
        check_range("(0, inf)", lr=lr)
        self.lr, self.betas, self.eps = lr, betas, eps
        for name in ("first", "second", "count"):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    def forward(self, values: Tensor, index: Tensor, gradient: Tensor) -> None:
        """Takes one step on `values[index]`, in place.

        Shape: values [M], index [m] int64, gradient [m].
        """
        beta1, beta2 = self.betas
        self.count[index] += 1
        self.first[index] = beta1 * self.first[index] + (1 - beta1) * gradient
        self.second[index] = beta2 * self.second[index] + (1 - beta2) * gradient.square()
        mean = self.first[index] / (1 - beta1 ** self.count[index])
        square = self.second[index] / (1 - beta2 ** self.count[index])
        values[index] = values[index] - self.lr * mean / (square.sqrt() + self.eps)
