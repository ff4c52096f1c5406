"""GradNorm: a controller that equalises the training rates of the losses (Chen et al. 2018, algorithm 1)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from balancer.adam import VectorAdam
from balancer.checks import check_choice, check_range
from balancer.rates import InverseRates
from balancer.statistics import SharedLayers, Statistics

__all__ = ["GradNorm", "norm_gradient", "norm_targets"]


class GradNorm(nn.Module):
    """Weights w_i that Adam moves so that w_i |dL_i / dW| approaches mean_k(w_k |dL_k / dW|) r_i^alpha.

    The paper takes steps in w and rescales w to the sum m; with raw norms w can become negative. Here
    w = m softmax(v) over the active losses, and steps are taken in v, as in LibMTL. So w is positive and below m.
    Norms are divided by the mean of the weighted norms. Only their ratios matter then, and the step of Adam does not
    shrink while the largest loss is reduced. The targets are constants, so the gradient has a closed form and takes no
    second backward pass.

    Every loss depends on the codec only through its output, so all parameters of the codec are shared, and W is a
    choice. With W the output and alpha 0, the controller approaches EnCodec's weights.

    Args:
        norm_on: W: the `output`, the weight of the `last_layer` before it (one small convolution per loss), or
            `all_shared` parameters (one backward pass through the codec per loss).
        alpha: Influence of the rates; 0 makes all norms equal.
        lr: Learning rate of Adam.
        exclude_from_rates: Losses whose r_i is 1.

    Raises:
        ValueError: A setting is out of range.

    Buffers:
        logits [M]: v.
    """

    needs_gradients = True
    logits: Tensor

    def __init__(
        self,
        norm_on: Literal["output"] | SharedLayers = "output",
        alpha: float = 1.5,
        lr: float = 0.025,
        exclude_from_rates: Sequence[str] = ("adversarial", "feature_matching"),
    ) -> None:
        super().__init__()
        check_choice(("output", "last_layer", "all_shared"), norm_on=norm_on)
        check_range("[0, inf)", alpha=alpha)
        check_range("(0, inf)", lr=lr)
        self.norm_on = norm_on
        self.alpha = alpha
        self.lr = lr
        self.exclude_from_rates = exclude_from_rates

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.register_buffer("logits", torch.zeros(len(weights), dtype=torch.float64))
        self.adam = VectorAdam(len(weights), self.lr)
        self.rates = InverseRates(weights, self.exclude_from_rates)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        index = statistics.index
        weights = len(index) * self.logits[index].softmax(0)
        norms = statistics.norms if self.norm_on == "output" else statistics.parameter_norms(self.norm_on)
        norms = norms / (weights * norms).mean()
        gradient = norm_gradient(weights, norms, norm_targets(weights, norms, self.rates(statistics), self.alpha))
        # Chain rule for w = m softmax(v): dw_i / dv_j = w_i (delta_ij - w_j / m).
        gradient = weights * (gradient - (weights * gradient).mean())
        # Norms at the parameters may be NaN or infinite although those at the output are finite.
        self.adam(self.logits, index, gradient.nan_to_num(0.0, 0.0, 0.0))
        return weights


def norm_targets(weights: Tensor, norms: Tensor, rates: Tensor, alpha: float) -> Tensor:
    """Target norms of the weighted gradients, equation 1 of the paper.

    Shape: weights [m], norms [m], rates [m] -> [m].
    """
    return (weights * norms).mean() * rates**alpha


def norm_gradient(weights: Tensor, norms: Tensor, targets: Tensor) -> Tensor:
    """Gradient of equation 2, sum_i |w_i norm_i - target_i|, at the weights, with constant targets.

    Shape: weights [m], norms [m], targets [m] -> [m].
    """
    return (weights * norms - targets).sign() * norms
