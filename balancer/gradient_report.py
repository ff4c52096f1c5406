"""What each loss really does to the result: the report of a monitoring step."""

from typing import NamedTuple

import torch
from torch import Tensor

from balancer.statistics import Statistics
from balancer.strategy import CombinedGradient

__all__ = ["GradientReport", "report_gradients"]

_TINY = torch.finfo(torch.float64).tiny


class GradientReport(NamedTuple):
    """What each active loss did in one step, for the log."""

    names: tuple[str, ...]
    norms: Tensor  # [m] length of the raw gradients
    shares: Tensor  # [m] length of the weighted gradients, as a share of their sum
    projections: Tensor  # [m] of the weighted gradients on the result, as a share of its length
    cosines: Tensor  # [m, m] between the raw gradients
    conflicts: Tensor  # [] share of the pairs whose cosine is negative, 0 if there is no pair
    norm: Tensor  # [] of the result


def report_gradients(names: tuple[str, ...], statistics: Statistics, combined: CombinedGradient) -> GradientReport:
    """What a step with gradients did.

    With d the result and w_i g_i the weighted gradients that add up to it, loss i has the share
    |w_i g_i| / sum_j |w_j g_j| and the projection <w_i g_i, d> / |d|^2. Shares are never negative. Projections add up
    to 1, and are negative for a loss that points against the result: the step makes it worse. Where the gradients
    cancel down to rounding there is nothing to point along, and every projection is 0.
    """
    gradient = combined.gradient
    assert gradient is not None, "a monitoring step has gradients"
    weights, rows = combined.weights.double(), statistics.jacobian.double()
    length = statistics.length(gradient)
    unit = gradient.double() / length.clamp_min(_TINY)
    if weights.ndim == 1:
        terms, along = weights.abs() * statistics.norms, weights * statistics.product(rows, unit)
    else:
        weighted = weights * rows
        terms, along = statistics.length(weighted), statistics.product(weighted, unit)
    rounding = torch.finfo(torch.float32).eps * terms.sum()
    pairs = torch.ones_like(statistics.cosines, dtype=torch.bool).triu(1)
    return GradientReport(
        names,
        statistics.norms,
        terms / terms.sum().clamp_min(_TINY),
        torch.where(length <= rounding, 0, along / length.clamp_min(_TINY)),
        statistics.cosines,
        ((statistics.cosines < 0) & pairs).sum().double() / pairs.sum().clamp_min(1),
        length,
    )
