"""Every gradient at the same length, from the lengths of this step alone."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from balancer.rates import InverseRates
from balancer.statistics import Statistics

__all__ = ["GradientNormalization"]


class GradientNormalization(nn.Module):
    """r_i^alpha / |g_i|, times the mean length if wanted.

    GradNorm's target reached at once (Chen et al. 2018, equation 1, with its rates r and exponent alpha) instead of by
    a controller; for alpha 0, EnCodec's scale without a memory. Then no gradient shrinks towards the optimum, and a
    loss that is nearly solved is heard as loudly as ever: its noise wants a decaying learning rate.

    Buffers: of `InverseRates`.

    Args:
        rate_exponent: alpha.
        keep_mean_norm: Multiply by the mean of the lengths, so that the gradients' overall size is kept.
        exclude_from_rates: Losses whose r_i is 1.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True

    def __init__(
        self, rate_exponent: float = 0.0, keep_mean_norm: bool = False, exclude_from_rates: Sequence[str] = ()
    ) -> None:
        super().__init__()
        if not 0 <= rate_exponent < float("inf"):
            raise ValueError(f"rate_exponent must be 0 or more, got {rate_exponent}")
        self.rate_exponent = rate_exponent
        self.keep_mean_norm = keep_mean_norm
        self.exclude_from_rates = exclude_from_rates

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.rates = InverseRates(weights, self.exclude_from_rates)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        norms = statistics.norms
        common = norms.mean() if self.keep_mean_norm else torch.ones_like(norms[0])
        return common * self.rates(statistics) ** self.rate_exponent / (norms + 1e-12)
