"""Adam on a vector of which only some entries have a gradient in a step."""

import torch
from torch import Tensor, nn

__all__ = ["VectorAdam"]


class VectorAdam(nn.Module):
    """Adam (Kingma and Ba 2015, algorithm 1) with decoupled weight decay (Loshchilov and Hutter 2019), per entry.

    Every entry counts its own steps: one whose loss is away for a while neither drifts on its momentum nor loses its
    bias correction. torch.optim.Adam keeps one count for the vector and its state outside of buffers.

    Buffers:
        first [M], second [M], count [M]: moments of the gradients seen so far, and how many.

    Args:
        size: M.
        lr, betas, eps, weight_decay: As in `torch.optim.AdamW`.
    """

    first: Tensor
    second: Tensor
    count: Tensor

    def __init__(
        self,
        size: int,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < lr < float("inf"):
            raise ValueError(f"lr must be positive, got {lr}")
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        for name in ("first", "second", "count"):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    def forward(self, values: Tensor, index: Tensor, gradient: Tensor) -> None:
        """Moves `values[index]` against `gradient`, in place.

        Shape: values [M], index [m] int64, gradient [m].
        """
        a, b = self.betas
        self.count[index] += 1
        self.first[index] = a * self.first[index] + (1 - a) * gradient
        self.second[index] = b * self.second[index] + (1 - b) * gradient.square()
        mean = self.first[index] / (1 - a ** self.count[index])
        square = self.second[index] / (1 - b ** self.count[index])
        kept = (1 - self.lr * self.weight_decay) * values[index]
        values[index] = kept - self.lr * mean / (square.sqrt() + self.eps)
