"""VQGAN's adaptive weight of the adversarial loss (Esser et al. 2021, equation 7)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from balancer.checks import check_choice, check_range
from balancer.statistics import SharedLayers, Statistics, like

__all__ = ["VQGAN"]


class VQGAN(nn.Module):
    """The adversarial losses get |dL_rec / dW| / (|dL_adv / dW| + eps), clamped to [0, limit]; all others get 1.

    L_rec is the weighted sum of all losses that are not in `adversarial_losses`, L_adv the weighted mean of those that
    are. As in the paper's code, the user's weights multiply afterwards. If one of the two is missing in a step, all
    factors are 1.

    Args:
        norm_on: W: the weight of the `last_layer`, as in the paper, the `output`, or `all_shared` parameters.
        adversarial_losses: Names of the discriminator's losses.
        eps: As published. At the decoder output it is larger than |dL_adv / dW|.
        limit: Largest factor.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True
    is_adversarial: Tensor

    def __init__(
        self,
        norm_on: Literal["output"] | SharedLayers = "last_layer",
        adversarial_losses: Sequence[str] = ("adversarial", "feature_matching"),
        eps: float = 1e-4,
        limit: float = 1e4,
    ) -> None:
        super().__init__()
        check_choice(("output", "last_layer", "all_shared"), norm_on=norm_on)
        check_range("(0, inf)", eps=eps, limit=limit)
        self.norm_on = norm_on
        self.adversarial_losses = adversarial_losses
        self.eps = eps
        self.limit = limit

    def prepare(self, weights: Mapping[str, float]) -> None:
        is_adversarial = torch.tensor([name in self.adversarial_losses for name in weights])
        self.register_buffer("is_adversarial", is_adversarial, persistent=False)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        norms = statistics.measure(("vqgan", self.norm_on), self._norms)
        adversarial = self.is_adversarial[statistics.index]
        weight = (norms[0] / (norms[1] + self.eps)).clamp(0, self.limit)
        both_present = adversarial.any() & ~adversarial.all()
        return torch.where(adversarial & both_present, weight, 1.0)

    def _norms(self, statistics: Statistics) -> Tensor:
        """|dL_rec / dW| and |dL_adv / dW|, on the device. Shape: -> [2] float64."""
        assert statistics.gradients is not None
        users, adversarial = statistics.user_weights, self.is_adversarial[statistics.index]
        total = (users * adversarial).sum().clamp_min(torch.finfo(torch.float64).tiny)
        sums = torch.stack([torch.where(adversarial, 0.0, users), torch.where(adversarial, users / total, 0.0)])
        # Gradients are linear in the loss, so those of the two sums are sums of the given ones.
        rows = torch.tensordot(like(sums, statistics.gradients), statistics.gradients, dims=1)
        both = Statistics(statistics.index, statistics.losses, users, rows, statistics.shared_gradient)
        return both.device_norms if self.norm_on == "output" else both.device_parameter_norms(self.norm_on)
