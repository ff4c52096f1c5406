"""GradNorm: a controller that equalises the training rates of the losses (Chen et al. 2018, algorithm 1)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from balancer.adam import VectorAdam
from balancer.rates import InverseRates
from balancer.statistics import SharedLayers, Statistics

__all__ = ["GradNorm", "norm_gradient", "norm_targets"]


class GradNorm(nn.Module):
    """Weights w_i that Adam moves so that w_i |dL_i / dW| approaches mean_k(w_k |dL_k / dW|) r_i^alpha.

    The paper takes steps in w and rescales them to the sum m, which raw lengths can drive below zero. Here
    w = m softmax(v) of the active losses and steps are taken in v, as in LibMTL: w stays positive and below m.
    Lengths are divided by the mean of the weighted ones: only their ratios count, and the gradient does not fade
    against Adam's memory while the loudest loss is turned down. As targets are constants to the controller, the
    gradient is known in closed form and costs no second backward pass.

    All losses see nothing but the output, so every parameter of the codec is shared; what W is can be chosen. With W
    the output itself and alpha 0, the controller approaches EnCodec's weights.

    Buffers:
        logits [M]: v; and those of `VectorAdam` and `InverseRates`.

    Args:
        norm_on: W: the `output`, the weight of the `last_layer` before it (one small convolution a loss), or
            `all_shared` parameters (one backward pass through the codec a loss).
        alpha: How strongly rates count; 0 makes all lengths equal.
        lr: Of Adam.
        exclude_from_rates: Losses whose r_i is 1.

    Raises:
        ValueError: A setting is out of range.
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
        if norm_on not in ("output", "last_layer", "all_shared"):
            raise ValueError(f"norm_on must be output, last_layer or all_shared, got {norm_on!r}")
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha must be 0 or more, got {alpha}")
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
        # Through w = m softmax(v): dw_i / dv_j = w_i (delta_ij - w_j / m).
        gradient = weights * (gradient - (weights * gradient).mean())
        # Lengths at the parameters may be no numbers although those at the output are: v has to survive that.
        self.adam(self.logits, index, gradient.nan_to_num(0.0, 0.0, 0.0))
        return weights


def norm_targets(weights: Tensor, norms: Tensor, rates: Tensor, alpha: float) -> Tensor:
    """Lengths that the weighted gradients are to have, equation 1 of the paper.

    Shape: weights [m], norms [m], rates [m] -> [m].
    """
    return (weights * norms).mean() * rates**alpha


def norm_gradient(weights: Tensor, norms: Tensor, targets: Tensor) -> Tensor:
    """Gradient of equation 2, sum_i |w_i norm_i - target_i|, at the weights, with the targets constant.

    Shape: weights [m], norms [m], targets [m] -> [m].
    """
    return (weights * norms - targets).sign() * norms
