"""Turns the gradients of many losses at the decoder output into one (Défossez et al. 2022, section 3.4, generalised).

    scale      multiplies each loss, from its value, its gradient's length or a memory of either
    direction  weighs the scaled gradients against each other
    magnitude  sets the length of the result

EnCodec is (ema_norm, sum, keep), a plain weighted sum (static, sum, keep). The weights from the config multiply after
the scale, so that under a normalising scale they are shares.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from balancer.statistics import Statistics

__all__ = ["Balance", "Balanced", "Balancer", "Direction", "Magnitude", "Scale"]


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
        """Shape: -> [m] float64."""


class Magnitude(Protocol):
    """One factor for the combined gradient, given the raw losses and the weights they are to be summed with."""

    @property
    def needs_gradients(self) -> bool:
        """As in `Scale`."""

    def __call__(self, statistics: Statistics, weights: Tensor) -> Tensor:
        """Shape: weights [m] -> [] float64; `statistics.scaled(weights)` are those of the sum's terms."""


class Balance(NamedTuple):
    """What each active loss did in one step, for the log."""

    names: tuple[str, ...]
    norms: Tensor  # [m] length of the raw gradients
    shares: Tensor  # [m] |weight| * norm, as a share of their sum
    cosines: Tensor  # [m, m] between the raw gradients
    length: Tensor  # [] of the result


class Balanced(NamedTuple):
    """Result of one step."""

    gradient: Tensor  # [B, C, T] to send into the decoder output
    weights: dict[str, Tensor]  # loss name -> factor its gradient went in with; 0 for a loss that was inactive
    dropped: tuple[str, ...]  # losses left out because their value or gradient was not finite
    balance: Balance | None  # on monitoring steps


class Balancer(nn.Module):
    """Engine that hosts every strategy.

    A loss without a value in this step, with weight 0, or constant, or whose value is not finite is inactive: it gets
    weight 0 and no strategy sees it, so that it cannot spoil what strategies remember. The same holds for a gradient
    that is zero or not finite, if a strategy looks at gradients. If none does, gradients are not judged one by one,
    on monitoring steps neither, lest monitoring change the training: a finite loss with a NaN gradient then makes
    the result NaN, as in a plain sum, and the caller has to skip the step.

    Args:
        weights: Loss name -> weight.
        scale, direction, magnitude: The strategy.
        monitor_every: Every so many steps the geometry of the gradients is reported, 0 never. Strategies that only
            look at loss values pay one backward pass of the weighted sum on all other steps.

    Attributes:
        step: Calls so far; part of the state.

    Raises:
        ValueError: No weight is positive, or one is negative or not finite.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        scale: Scale,
        direction: Direction,
        magnitude: Magnitude,
        monitor_every: int = 50,
    ) -> None:
        super().__init__()
        bad = {name: w for name, w in weights.items() if not 0 <= w < float("inf")}
        if bad or not any(weights.values()):
            raise ValueError(
                f"loss weights must be finite, not negative, and one of them positive; got {dict(weights)}"
            )
        self.weights = dict(weights)
        self.scale = scale
        self.direction = direction
        self.magnitude = magnitude
        self.monitor_every = monitor_every
        self.step = 0
        scale.prepare(self.weights)
        direction.prepare(self.weights)

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Balanced:
        """Combines the gradients of `losses` at `output`; the losses' graphs are kept.

        Args:
            losses: Scalars that depend on `output`.
            output: A leaf that requires a gradient.

        Shape: output [B, C, T] -> Balanced.

        Raises:
            ValueError: A loss has no weight, or the output is no float32 leaf; the message says which.
        """
        unknown = sorted(set(losses) - set(self.weights))
        if unknown:
            raise ValueError(f"no weight for the loss {', '.join(unknown)}; there are weights for {list(self.weights)}")
        if not output.requires_grad or output.dtype not in (torch.float32, torch.float64):
            wanted = "the output must be float32 and require a gradient"
            raise ValueError(f"{wanted}, got {output.dtype} and requires_grad={output.requires_grad}")
        monitoring = self.monitor_every > 0 and self.step % self.monitor_every == 0
        self.step += 1
        with torch.autocast(output.device.type, enabled=False):  # it would round the weights to bfloat16
            return self._balance(losses, output, monitoring)

    def _balance(self, losses: Mapping[str, Tensor], output: Tensor, monitoring: bool) -> Balanced:
        looks = any(slot.needs_gradients for slot in (self.scale, self.direction, self.magnitude))
        present = [name for name, weight in self.weights.items() if weight > 0 and name in losses]
        gradients = {name: _gradient(losses[name], output) for name in present} if looks or monitoring else None
        active, dropped = _split({name: losses[name] for name in present}, gradients if looks else None)
        if not active:
            return Balanced(torch.zeros_like(output), self._by_name(active, output.new_zeros(0)), dropped, None)
        statistics = self._statistics(active, losses, gradients, output.device)
        weights = self._combine(statistics)
        if gradients is None:
            gradient = _gradient((torch.stack([losses[name] for name in active]) * weights).sum(), output)
        else:
            gradient = (weights.to(output.dtype) @ statistics.jacobian).view_as(output)
        balance = _report(active, statistics, weights, gradient) if monitoring else None
        return Balanced(gradient, self._by_name(active, weights), dropped, balance)

    def _statistics(
        self,
        active: list[str],
        losses: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor] | None,
        device: torch.device,
    ) -> Statistics:
        position = {name: index for index, name in enumerate(self.weights)}
        return Statistics(
            torch.tensor([position[name] for name in active]).to(device, non_blocking=True),
            torch.stack([losses[name].detach().double() for name in active]),
            torch.tensor([self.weights[n] for n in active], dtype=torch.float64).to(device, non_blocking=True),
            None if gradients is None else torch.stack([gradients[name] for name in active]),
        )

    def _combine(self, statistics: Statistics) -> Tensor:
        """Effective weights [m]: user weight x scale x direction x magnitude."""
        weights = statistics.user_weights * self.scale(statistics)
        weights = weights * self.direction(statistics.scaled(weights))
        return weights * self.magnitude(statistics, weights)

    def _by_name(self, active: list[str], weights: Tensor) -> dict[str, Tensor]:
        zero = torch.zeros((), dtype=torch.float64, device=weights.device)
        found = dict(zip(active, weights.unbind(), strict=True))
        return {name: found.get(name, zero) for name in self.weights}

    def get_extra_state(self) -> dict[str, Any]:
        return {"names": list(self.weights), "step": self.step}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["names"] != list(self.weights):
            raise ValueError(f"this state balances the losses {state['names']}, this balancer {list(self.weights)}")
        self.step = state["step"]


def _gradient(loss: Tensor, output: Tensor) -> Tensor:
    if not loss.requires_grad:
        return torch.zeros_like(output)
    (gradient,) = torch.autograd.grad(loss, [output], retain_graph=True, allow_unused=True)
    return torch.zeros_like(output) if gradient is None else gradient


def _split(losses: Mapping[str, Tensor], gradients: Mapping[str, Tensor] | None) -> tuple[list[str], tuple[str, ...]]:
    """Names of the active losses, and of those dropped as not finite; reads the device once.

    Without gradients the values alone are judged.
    """
    if not losses:
        return [], ()
    sizes = torch.stack([loss.detach().double().abs() for loss in losses.values()])
    if gradients is None:
        sizes = torch.where(sizes.isfinite(), torch.ones_like(sizes), sizes)
    else:
        # Largest entry rather than a norm: it cannot overflow, and it is NaN or inf exactly if an entry is.
        peaks = torch.stack([gradient.abs().amax().double() for gradient in gradients.values()])
        sizes = torch.where(sizes.isfinite(), peaks, sizes)
    found = dict(zip(losses, sizes.tolist(), strict=True))
    dropped = tuple(name for name, size in found.items() if not size < float("inf"))
    # What has underflowed in float32 is zero: a strategy that divides by its length would overflow.
    underflow = torch.finfo(torch.float32).tiny
    active = [name for name, size in found.items() if underflow <= size < float("inf") and losses[name].requires_grad]
    return active, dropped


def _report(names: list[str], statistics: Statistics, weights: Tensor, gradient: Tensor) -> Balance:
    effective = weights.abs() * statistics.norms
    shares = effective / effective.sum().clamp_min(torch.finfo(torch.float64).tiny)
    length = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    return Balance(tuple(names), statistics.norms, shares, statistics.cosines, length)
