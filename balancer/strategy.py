"""The three slots of a strategy, and how their results become one gradient."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from balancer.statistics import Statistics, like

__all__ = [
    "CombinedGradient",
    "Direction",
    "Magnitude",
    "Scale",
    "Strategy",
    "UsesConstantBaselines",
    "UsesLossWeights",
    "UsesValidation",
]


class Scale(Protocol):
    """A factor for every active loss. It is called once per step. Its state, of size M, is in buffers."""

    @property
    def needs_gradients(self) -> bool:
        """Whether the next call uses more than loss values. It may change from step to step."""

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""


class Direction(Protocol):
    """A weight for every scaled loss. Its losses and gradients include the scale and the user's weights."""

    @property
    def needs_gradients(self) -> bool:
        """As in `Scale`."""

    def __call__(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64, or a weight for every element of the output, [m, B * C * T] float32, on its device."""


class Magnitude(Protocol):
    """One factor for the combined gradient."""

    @property
    def needs_gradients(self) -> bool:
        """As in `Scale`. A magnitude without gradients is not called."""

    def __call__(self, statistics: Statistics, weights: Tensor, gradient: Tensor) -> Tensor:
        """Gets the direction's input and result, and the gradient that they give.

        Shape: weights [m] or [m, B * C * T], gradient [B * C * T] -> [] float64.
        """


@runtime_checkable
class UsesLossWeights(Protocol):
    """A scale or direction that needs the number, names or weights of all losses, for example to create its buffers."""

    def prepare(self, weights: Mapping[str, float]) -> None:
        """Gets the user's weights of all M losses by name, once before the first call."""


@runtime_checkable
class UsesValidation(Protocol):
    """A slot that adapts to validation losses."""

    def update_from_validation(self, losses: Mapping[str, float]) -> None:
        """Gets the losses on held-out audio after each validation, without those that cannot be computed there."""


@runtime_checkable
class UsesConstantBaselines(Protocol):
    """A slot that uses the losses of the best constant prediction."""

    def set_constant_baselines(self, losses: Mapping[str, float]) -> None:
        """Gets the baselines of the losses that have one, once before the first call."""


class CombinedGradient(NamedTuple):
    """One gradient and the weights it was combined with."""

    # [m] float64 or [m, B * C * T] float32; the gradient is the sum of weights x raw gradients. They are on the device
    # if there is one for every element or a magnitude changed them, else on the host.
    weights: Tensor
    gradient: Tensor | None  # [B * C * T], None in steps without gradients


class Strategy(nn.Module):
    """Scale, direction and magnitude, applied in this order.

    Args:
        scale, direction, magnitude: The three slots.
        weights: The user's weights of all M losses by name.
    """

    def __init__(self, scale: Scale, direction: Direction, magnitude: Magnitude, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.scale = scale
        self.direction = direction
        self.magnitude = magnitude
        for slot in self.slots:
            if isinstance(slot, UsesLossWeights):
                slot.prepare(weights)

    @property
    def slots(self) -> tuple[Scale, Direction, Magnitude]:
        return self.scale, self.direction, self.magnitude

    @property
    def needs_gradients(self) -> bool:
        """Whether the next call uses more than loss values."""
        return any(slot.needs_gradients for slot in self.slots)

    def forward(self, statistics: Statistics) -> CombinedGradient:
        """Multiplies user weight, scale, direction and magnitude."""
        factors = statistics.user_weights * self.scale(statistics)
        scaled = statistics.scaled(factors)
        weights = self.direction(scaled)
        if weights.ndim == 2:
            gradient = (weights * scaled.jacobian).sum(0)
            effective = weights * like(factors, weights)[:, None]
        else:
            effective = weights * factors
            if statistics.gradients is None:
                return CombinedGradient(effective, None)
            gradient = like(effective, statistics.jacobian) @ statistics.jacobian
        if self.magnitude.needs_gradients:
            factor = self.magnitude(scaled, weights, gradient).to(gradient.dtype)
            effective = effective.to(gradient.device, non_blocking=True) * factor
            gradient = gradient * factor
        return CombinedGradient(effective, gradient)
