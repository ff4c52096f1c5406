"""VQGAN's adaptive weight of the adversarial loss (Esser et al. 2021, equation 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from balancer.statistics import SharedLayers, Statistics

__all__ = ["VQGAN"]


class VQGAN(nn.Module):
    """The adversarial loss gets |dL_rec / dW| / (|dL_adv / dW| + eps), clamped to [0, limit]; all others 1.

    L_rec is the weighted sum of all losses that are not named adversarial, L_adv the weighted mean of those that are:
    as in the paper's code their weight multiplies afterwards. A step in which one of the two is missing is left
    as it is.

    Args:
        norm_on: W: the weight of the `last_layer`, as in the paper, the `output` itself, or `all_shared` parameters.
        adversarial: Names of the discriminator's losses.
        eps: As published. It is no small number everywhere: at the output of a decoder it exceeds |dL_adv / dW|.
        limit: Of the weight.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True
    is_adversarial: Tensor

    def __init__(
        self,
        norm_on: Literal["output"] | SharedLayers = "last_layer",
        adversarial: Sequence[str] = ("adversarial", "feature_matching"),
        eps: float = 1e-4,
        limit: float = 1e4,
    ) -> None:
        super().__init__()
        if norm_on not in ("output", "last_layer", "all_shared"):
            raise ValueError(f"norm_on must be output, last_layer or all_shared, got {norm_on!r}")
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps}")
        if not 0 < limit < float("inf"):
            raise ValueError(f"limit must be positive, got {limit}")
        self.norm_on = norm_on
        self.adversarial = adversarial
        self.eps = eps
        self.limit = limit

    def prepare(self, weights: Mapping[str, float]) -> None:
        named = torch.tensor([name in self.adversarial for name in weights])
        self.register_buffer("is_adversarial", named, persistent=False)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        users, named = statistics.user_weights, self.is_adversarial[statistics.index]
        share = (users * named).sum().clamp_min(torch.finfo(torch.float64).tiny)
        sums = torch.stack([torch.where(named, 0.0, users), torch.where(named, users / share, 0.0)])
        assert statistics.gradients is not None
        # Gradients are linear in the loss: those of the two sums are sums of those at hand.
        rows = torch.tensordot(sums.to(statistics.gradients.dtype), statistics.gradients, dims=1)
        both = replace(statistics, gradients=rows)
        reconstruction, adversarial = both.norms if self.norm_on == "output" else both.parameter_norms(self.norm_on)
        weight = (reconstruction / (adversarial + self.eps)).clamp(0, self.limit)
        complete = named.any() & ~named.all()
        return torch.where(named & complete, weight, 1.0)
