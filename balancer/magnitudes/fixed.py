"""A combined gradient of constant norm."""

from typing import Literal

from torch import Tensor

from balancer.checks import check_choice, check_range
from balancer.magnitudes.rescale import norm_ratio
from balancer.statistics import Statistics

__all__ = ["Fixed"]


class Fixed:
    """The combined gradient has the norm `norm`, or 0 if the gradients cancel.

    Args:
        norm: The norm.
        norm_over: `batch` is the norm over the whole batch. `item` is the mean over items of each item's norm, so that
            the gradient of an item does not depend on the batch size.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True

    def __init__(self, norm: float = 1.0, norm_over: Literal["item", "batch"] = "batch") -> None:
        check_range("(0, inf)", norm=norm)
        check_choice(("item", "batch"), norm_over=norm_over)
        self.norm = norm
        self.norm_over = norm_over

    def __call__(self, statistics: Statistics, weights: Tensor, gradient: Tensor) -> Tensor:
        """Shape: weights [m] or [m, n], gradient [n] -> [] float64."""
        norm = statistics.item_norm(gradient) if self.norm_over == "item" else statistics.norm(gradient)
        return norm_ratio(self.norm, norm, statistics, weights, gradient)
