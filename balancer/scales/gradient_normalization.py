"""Gradients divided by their norms in this step (Chen et al. 2018, GradNorm, equation 1, without its controller)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from balancer.checks import check_range
from balancer.rates import InverseRates
from balancer.statistics import Statistics

__all__ = ["GradientNormalization"]


class GradientNormalization(nn.Module):
    """r_i^alpha / |g_i|, optionally times the mean norm.

    r and alpha are GradNorm's rates and exponent. With alpha 0 this is EnCodec's scale without averages. No gradient
    shrinks near the optimum, and the noise of an almost solved loss keeps its norm. Convergence therefore needs a
    decaying learning rate.

    Args:
        rate_exponent: alpha.
        keep_mean_norm: Multiply by the mean of the norms, so that the overall size of the gradients is kept.
        exclude_from_rates: Losses whose r_i is 1.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True

    def __init__(
        self, rate_exponent: float = 0.0, keep_mean_norm: bool = False, exclude_from_rates: Sequence[str] = ()
    ) -> None:
        super().__init__()
        check_range("[0, inf)", rate_exponent=rate_exponent)
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
