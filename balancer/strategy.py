"""The three slots of a strategy, and how their answers become one gradient."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from balancer.directions.sum import Sum
from balancer.magnitudes import Keep
from balancer.scales.static import Static
from balancer.statistics import Statistics

__all__ = ["CombinedGradient", "Direction", "Magnitude", "Scale", "Strategy", "UsesConstantBaselines", "UsesValidation"]


class Scale(Protocol):
    """Factor for every active loss. Called once a step; may keep a memory of size M in buffers."""

    @property
    def needs_gradients(self) -> bool:
        """Whether the next call looks at more than loss values; may change from step to step."""

    def prepare(self, weights: Mapping[str, float]) -> None:
        """Told the names and the user's weights of all M losses, once and before the first call."""

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""


class Direction(Protocol):
    """Weight for every scaled loss. Sees losses and gradients as the scale and the user's weights left them."""

    @property
    def needs_gradients(self) -> bool:
        """Whether the next call looks at more than loss values; may change from step to step."""

    def prepare(self, weights: Mapping[str, float]) -> None:
        """Told the names and the user's weights of all M losses, once and before the first call."""

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64, or a weight for every element of the output, [m, B * C * T] float32."""


class Magnitude(Protocol):
    """One factor for the combined gradient."""

    @property
    def needs_gradients(self) -> bool:
        """As in `Scale`."""

    def __call__(self, statistics: Statistics, weights: Tensor, gradient: Tensor) -> Tensor:
        """Given what the direction was given, what it answered, and the gradient that makes.

        Shape: weights [m] or [m, B * C * T], gradient [B * C * T] -> [] float64.
        """


@runtime_checkable
class UsesValidation(Protocol):
    """A slot that adapts to held-out losses."""

    def update_from_validation(self, losses: Mapping[str, float]) -> None:
        """Told the losses on held-out audio after each validation, as far as they can be measured there."""


@runtime_checkable
class UsesConstantBaselines(Protocol):
    """A slot that wants to know what the best constant prediction costs."""

    def set_constant_baselines(self, losses: Mapping[str, float]) -> None:
        """Told, once and before the first call, the losses of the best constant prediction where there is one."""


class CombinedGradient(NamedTuple):
    """One gradient out of m."""

    weights: Tensor  # [m] float64, or [m, B * C * T] float32: the gradient is their sum over losses x raw gradients
    gradient: Tensor | None  # [B * C * T], None if nobody looked at gradients


class Strategy(nn.Module):
    """Scale, direction and magnitude, applied in this order."""

    def __init__(self, scale: Scale, direction: Direction, magnitude: Magnitude, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.scale = scale
        self.direction = direction
        self.magnitude = magnitude
        scale.prepare(weights)
        direction.prepare(weights)

    @property
    def needs_gradients(self) -> bool:
        """Whether the next call looks at more than loss values."""
        return any(slot.needs_gradients for slot in (self.scale, self.direction, self.magnitude))

    @property
    def is_plain_sum(self) -> bool:
        """Whether the user's weights are the weights, whatever the losses are."""
        return [type(slot) for slot in (self.scale, self.direction, self.magnitude)] == [Static, Sum, Keep]

    def forward(self, statistics: Statistics) -> CombinedGradient:
        """User weight x scale x direction x magnitude."""
        factors = statistics.user_weights * self.scale(statistics)
        scaled = statistics.scaled(factors)
        weights = self.direction(scaled)
        if weights.ndim == 2:
            gradient = (weights * scaled.jacobian).sum(0)
            effective = weights * factors.to(weights.dtype)[:, None]
        else:
            effective = weights * factors
            if statistics.gradients is None:
                return CombinedGradient(effective, None)
            gradient = effective.to(statistics.jacobian.dtype) @ statistics.jacobian
        if self.magnitude.needs_gradients:
            length = self.magnitude(scaled, weights, gradient).to(gradient.dtype)
            gradient, effective = gradient * length, effective * length
        return CombinedGradient(effective, gradient)
