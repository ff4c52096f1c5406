"""EnCodec's scale (Défossez et al. 2022, section 3.4): gradients divided by moving averages of their norms."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from balancer.checks import check_choice, check_range
from balancer.moving_average import MovingAverage
from balancer.statistics import Statistics

__all__ = ["EmaNorm"]


class EmaNorm(nn.Module):
    """R / (sum of the active weights) / (moving average of the gradient norm).

    With the user's weights l the combined gradient is R * sum_i (l_i / sum l) g_i / <|g_i|>, equation 4 of the paper.
    The averages have bias correction and are part of the state.

    Args:
        decay: Beta of the moving average; with 0 it is the norm of this step.
        total_norm: R, the norm that the weights share.
        norm_over: `item` averages the norm over batch items (AudioCraft's `per_batch_item`). `batch` uses one norm
            over the whole batch.
        batch_invariant: Divide by the growth of the total norm with the batch size B: by B for `item`, by sqrt(B) for
            `batch`. AudioCraft does not. Its parameter gradients therefore grow with the batch, while those of the
            commitment loss, a mean, do not.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True

    def __init__(
        self,
        decay: float = 0.999,
        total_norm: float = 1.0,
        norm_over: Literal["item", "batch"] = "item",
        batch_invariant: bool = False,
    ) -> None:
        super().__init__()
        check_range("[0, 1)", decay=decay)
        check_range("(0, inf)", total_norm=total_norm)
        check_choice(("item", "batch"), norm_over=norm_over)
        self.decay = decay
        self.total_norm = total_norm
        self.norm_over = norm_over
        self.batch_invariant = batch_invariant

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.average = MovingAverage(len(weights), self.decay)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        norms = statistics.item_norms if self.norm_over == "item" else statistics.norms
        average = self.average(statistics, norms)
        share = self.total_norm / statistics.user_weights.sum()
        if self.batch_invariant:
            share = share / statistics.batch_size ** (1.0 if self.norm_over == "item" else 0.5)
        return share / (average + 1e-12)
