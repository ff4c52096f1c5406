"""Gradient norms, shares and cosines of one step, for the log."""

from typing import NamedTuple

import torch
from torch import Tensor

from balancer.statistics import Statistics
from balancer.strategy import CombinedGradient

__all__ = ["GradientReport", "report_gradients"]

_TINY = torch.finfo(torch.float64).tiny


class GradientReport(NamedTuple):
    """Contribution of each active loss to the combined gradient of one step. All values are on the host."""

    names: tuple[str, ...]
    norms: Tensor  # [m] norms of the raw gradients
    shares: Tensor  # [m] norms of the weighted gradients over their sum
    projections: Tensor  # [m] projections of the weighted gradients on the combined gradient, over its norm
    cosines: Tensor  # [m, m] between the raw gradients
    conflicts: Tensor  # [] fraction of pairs with a negative cosine, 0 if there is no pair
    norm: Tensor  # [] of the combined gradient


def report_gradients(names: tuple[str, ...], statistics: Statistics, combined: CombinedGradient) -> GradientReport:
    """Computes the report of a step with gradients.

    Let d be the combined gradient and w_i g_i the weighted gradients, which add up to it. The share of loss i is
    |w_i g_i| / sum_j |w_j g_j|, never negative. Its projection is <w_i g_i, d> / |d|^2. Projections add up to 1; the
    step increases a loss with a negative projection. They are 0 if the gradients cancel down to rounding, because
    then d has no direction.
    """
    gradient = combined.gradient
    assert gradient is not None, "a report needs a gradient"
    weights, rows = combined.weights.double(), statistics.jacobian.double()
    device_norm = statistics.norm(gradient)
    unit = gradient.double() / device_norm.clamp_min(_TINY)
    if weights.ndim == 1:
        weights = weights.cpu()
        terms, along = weights.abs() * statistics.norms, weights * statistics.inner_products(rows, unit).cpu()
    else:
        weighted = weights * rows
        terms, along = statistics.norm(weighted).cpu(), statistics.inner_products(weighted, unit).cpu()
    norm = device_norm.cpu()
    rounding = torch.finfo(torch.float32).eps * terms.sum()
    pairs = torch.ones_like(statistics.cosines, dtype=torch.bool).triu(1)
    return GradientReport(
        names,
        statistics.norms,
        terms / terms.sum().clamp_min(_TINY),
        torch.where(norm <= rounding, 0, along / norm.clamp_min(_TINY)),
        statistics.cosines,
        ((statistics.cosines < 0) & pairs).sum().double() / pairs.sum().clamp_min(1),
        norm,
    )
