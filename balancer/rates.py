"""Relative inverse training rates of the losses (Chen et al. 2018, GradNorm, section 3.1)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["InverseRates"]

_RANGE = 100.0


class InverseRates(nn.Module):
    """r_i = t_i / mean(t) with t_i = L_i / L_i(0) (Chen et al. 2018, section 3.1); above 1 for slowly falling losses.

    L_i(0) is the value of the first step in which loss i is active. Magnitudes are used, and t_i is kept within a
    factor of 100 of 1. A loss that is negative, crosses zero or starts near zero therefore cannot reverse a gradient
    or take all weight.

    Buffers:
        initial [M]: |L_i(0)|; 0 before loss i was active.

    Args:
        weights: Weights of all M losses by name.
        exclude_from_rates: Losses whose value does not show progress, such as adversarial losses. Their r_i is 1, and
            they are left out of the mean. Unknown names are ignored.
    """

    initial: Tensor
    excluded: Tensor

    def __init__(self, weights: Mapping[str, float], exclude_from_rates: Sequence[str] = ()) -> None:
        super().__init__()
        excluded = torch.tensor([name in exclude_from_rates for name in weights])
        self.register_buffer("initial", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("excluded", excluded, persistent=False)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index = statistics.index
        values = statistics.losses.abs()
        initial = self.initial[index]
        self.initial[index] = torch.where(initial > 0, initial, values.clamp_min(torch.finfo(torch.float64).tiny))
        ratios = (values / self.initial[index]).clamp(1 / _RANGE, _RANGE)
        included = ~self.excluded[index]
        mean = (ratios * included).sum() / included.sum()
        return torch.where(included, ratios / mean, 1.0)
