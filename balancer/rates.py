"""How far each loss has come, compared with the others (Chen et al. 2018, section 3.1)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["InverseRates"]


class InverseRates(nn.Module):
    """Relative inverse training rates r_i = t_i / mean(t), with t_i = L_i / L_i(0): above 1 for what learns slowly.

    L_i(0) is the value of the first step in which loss i is active. Magnitudes are taken, and t_i is kept within
    a factor of 100 of 1, so that a loss that is negative, crosses zero or starts near it can neither turn a gradient
    round nor take all the others' weight.

    Buffers:
        initial [M]: |L_i(0)|; 0 until loss i was active.

    Args:
        weights: Names of all losses, as `prepare` is told.
        exclude_from_rates: Losses whose value does not show progress, such as adversarial losses:
            r_i is 1, and they are left out of the mean. Names that no loss has are no error.
    """

    initial: Tensor
    free: Tensor

    def __init__(self, weights: Mapping[str, float], exclude_from_rates: Sequence[str] = ()) -> None:
        super().__init__()
        self.register_buffer("initial", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("free", torch.tensor([name in exclude_from_rates for name in weights]), persistent=False)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index = statistics.index
        values = statistics.losses.abs()
        seen = self.initial[index]
        self.initial[index] = torch.where(seen > 0, seen, values.clamp_min(torch.finfo(torch.float64).tiny))
        ratios = (values / self.initial[index]).clamp(1 / _RANGE, _RANGE)
        measured = ~self.free[index]
        mean = (ratios * measured).sum() / measured.sum()
        return torch.where(measured, ratios / mean, 1.0)


_RANGE = 100.0
