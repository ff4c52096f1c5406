"""Turns the gradients of many losses at the decoder output into one (Défossez et al. 2022, section 3.4, generalised).

    scale      multiplies each loss, from its value, its gradient's length or a memory of either
    direction  weighs the scaled gradients against each other
    magnitude  sets the length of the result

EnCodec is (ema_norm, sum, keep), a plain weighted sum (static, sum, keep). The weights from the config multiply after
the scale, so that under a normalising scale they are shares.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from balancer.gradient_report import GradientReport, report_gradients
from balancer.statistics import SharedGradient, Statistics, largest_over_processes, mean_over_processes
from balancer.strategy import (
    CombinedGradient,
    Direction,
    Magnitude,
    Scale,
    Strategy,
    UsesConstantBaselines,
    UsesValidation,
)

__all__ = ["Balanced", "Balancer", "Warmup"]


class Warmup(NamedTuple):
    """The strategy of the first steps. The one that follows starts afresh: it has seen none of them."""

    steps: int
    scale: Scale
    direction: Direction
    magnitude: Magnitude


class Balanced(NamedTuple):
    """Result of one step."""

    gradient: Tensor  # [B, C, T] to send into the decoder output
    weights: dict[str, Tensor]  # loss name -> factor its gradient went in with (the mean, if it varies); 0 if inactive
    dropped: tuple[str, ...]  # losses left out because their value or gradient was not finite
    is_finite: Tensor  # [] bool: the strategy's weights are finite; if not, the caller has to skip the step
    report: GradientReport | None  # on monitoring steps


class Balancer(nn.Module):
    """Engine that hosts every strategy.

    A loss without a value in this step, with weight 0, or constant, or whose value is not finite is inactive: it gets
    weight 0 and no strategy sees it, so that it cannot spoil what strategies remember. The same holds for a gradient
    that is zero or not finite, if a strategy looks at gradients. If none does, gradients are not judged one by one,
    on monitoring steps neither, lest monitoring change the training: a loss of exactly 0 is taken for one at its
    minimum and is inactive too, and a finite loss with a NaN gradient makes the result NaN, as in a plain sum, so that
    the caller has to skip the step.

    Args:
        weights: Loss name -> weight.
        scale, direction, magnitude: The strategy.
        monitor_every: Every so many steps the geometry of the gradients is reported, 0 never. Strategies that only
            look at loss values pay one backward pass of the weighted sum on all other steps.
        refresh_every: A strategy that looks at gradients does so every so many steps; in between its last weights
            hold, and a step costs one backward pass of the weighted sum. It also looks when another set of losses
            is there than last time. What a look finds stands for the steps since the last one, so that averages keep
            their time constant. No effect on weights for every element.
        refresh_from: Steps a strategy begins with in which it looks every time all the same, so that its averages form
            from all they can see.
        warmup: Another strategy for the first steps.

    Attributes:
        step: Calls so far; part of the state.

    Raises:
        ValueError: No weight is positive, or one is negative or not finite; or a setting is out of range.
    """

    last: Tensor

    def __init__(
        self,
        weights: Mapping[str, float],
        scale: Scale,
        direction: Direction,
        magnitude: Magnitude,
        monitor_every: int = 50,
        refresh_every: int = 1,
        refresh_from: int = 0,
        warmup: Warmup | None = None,
    ) -> None:
        super().__init__()
        bad = {name: w for name, w in weights.items() if not 0 <= w < float("inf")}
        if bad or not any(weights.values()):
            raise ValueError(
                f"loss weights must be finite, not negative, and one of them positive; got {dict(weights)}"
            )
        if refresh_every < 1:
            raise ValueError(f"refresh_every must be 1 or more, got {refresh_every}")
        if refresh_from < 0:
            raise ValueError(f"refresh_from must be 0 or more, got {refresh_from}")
        if warmup is not None and warmup.steps < 1:
            raise ValueError(f"a warm-up takes 1 step or more, got {warmup.steps}")
        self.weights = dict(weights)
        self.strategy = Strategy(scale, direction, magnitude, self.weights)
        self.warmup = None if warmup is None else Strategy(*warmup[1:], self.weights)
        self.warmup_steps = 0 if warmup is None else warmup.steps
        self.monitor_every = monitor_every
        self.refresh_every = refresh_every
        self.refresh_from = refresh_from
        self.step = 0
        # The weights of the last refresh, and the losses that were there.
        self.register_buffer("last", torch.zeros(len(self.weights), dtype=torch.float64))
        self._refreshed: list[str] = []
        self._looked: int | None = None  # the step of the last look

    def forward(
        self, losses: Mapping[str, Tensor], output: Tensor, shared_gradient: SharedGradient | None = None
    ) -> Balanced:
        """Combines the gradients of `losses` at `output`; the losses' graphs are kept.

        Args:
            losses: Scalars that depend on `output`.
            output: A leaf that requires a gradient.
            shared_gradient: For strategies that use gradients at the shared parameters; only they call it.

        Shape: output [B, C, T] -> Balanced.

        Raises:
            ValueError: A loss has no weight, or the output is no float32 leaf, or the strategy needs
                `shared_gradient`; the message says which.
        """
        unknown = sorted(set(losses) - set(self.weights))
        if unknown:
            raise ValueError(f"no weight for the loss {', '.join(unknown)}; there are weights for {list(self.weights)}")
        if not output.requires_grad or output.dtype not in (torch.float32, torch.float64):
            wanted = "the output must be float32 and require a gradient"
            raise ValueError(f"{wanted}, got {output.dtype} and requires_grad={output.requires_grad}")
        with torch.autocast(output.device.type, enabled=False):  # it would round the weights to bfloat16
            balanced = self._balance(losses, output, shared_gradient)
        self.step += 1
        return balanced

    def foreseen(self, names: Iterable[str]) -> dict[str, Tensor] | None:
        """The weights of all losses in the next call, given losses of these names, if they are known before the values
        are: of a plain sum, and of a strategy of gradients between two looks. None also if that call monitors.

        A caller that knows them can take the gradient of several losses in one backward pass and forget their graphs.
        The call may still find one of them inactive, and drop it if it is not finite: then the step is to be skipped.
        """
        if self._monitors:
            return None
        if self._current.needs_gradients and self._may_reuse(self._present(names)):
            weights = self.last.clone()
        elif self._current.is_plain_sum:
            weights = torch.tensor(list(self.weights.values()), dtype=torch.float64, device=self.last.device)
        else:
            return None
        return dict(zip(self.weights, weights, strict=True))

    def _balance(
        self, losses: Mapping[str, Tensor], output: Tensor, shared_gradient: SharedGradient | None
    ) -> Balanced:
        strategy, monitoring, present = self._current, self._monitors, self._present(losses)
        looks = strategy.needs_gradients and not self._may_reuse(present)
        gradients = {name: _gradient(losses[name], output) for name in present} if looks or monitoring else None
        active, dropped = _split({name: losses[name] for name in present}, gradients if looks else None)
        if not active:
            nothing = output.new_zeros(0, dtype=torch.float64)
            return Balanced(torch.zeros_like(output), self._by_name(active, nothing), dropped, _true(output), None)
        if self.step == self.warmup_steps:
            self._looked = None  # by another strategy
        elapsed = 1 if self._looked is None else self.step - self._looked
        statistics = self._statistics(
            active, losses, gradients if looks else None, shared_gradient, output.device, elapsed
        )
        if looks:
            self._looked = self.step
        if strategy.needs_gradients and not looks:
            combined = CombinedGradient(self.last[statistics.index], None)
        else:
            combined = strategy(statistics)
        weights = combined.weights if combined.weights.ndim == 1 else combined.weights.double().mean(1)
        sound = weights.isfinite().all()
        if looks and self.refresh_every > 1:
            self.last.zero_()[statistics.index] = weights
            reusable = combined.weights.ndim == 1 and not dropped and bool(sound)
            self._refreshed = present if reusable else []
        gradient = combined.gradient
        if gradient is None:
            gradient = _gradient((torch.stack([losses[n] for n in active]) * combined.weights).sum(), output).flatten()
        balance = None
        if monitoring:  # of a gradient that was come by as on any other step, so that the training does not change
            statistics = self._statistics(active, losses, gradients, shared_gradient, output.device)
            balance = report_gradients(tuple(active), statistics, CombinedGradient(combined.weights, gradient))
        return Balanced(gradient.view_as(output), self._by_name(active, weights), dropped, sound, balance)

    @property
    def _current(self) -> Strategy:
        return self.warmup if self.warmup is not None and self.step < self.warmup_steps else self.strategy

    @property
    def _monitors(self) -> bool:
        return self.monitor_every > 0 and self.step % self.monitor_every == 0

    def _present(self, names: Iterable[str]) -> list[str]:
        there = set(names)
        return [name for name, weight in self.weights.items() if weight > 0 and name in there]

    def _may_reuse(self, present: list[str]) -> bool:
        begun = 0 if self.step < self.warmup_steps else self.warmup_steps  # the step the strategy set out at
        forming = self.step - begun < max(self.refresh_from, 1)
        return not forming and self.step % self.refresh_every != 0 and present == self._refreshed

    def _statistics(
        self,
        active: list[str],
        losses: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor] | None,
        shared_gradient: SharedGradient | None,
        device: torch.device,
        elapsed: int = 1,
    ) -> Statistics:
        position = {name: index for index, name in enumerate(self.weights)}
        return Statistics(
            torch.tensor([position[name] for name in active]).to(device, non_blocking=True),
            mean_over_processes(torch.stack([losses[name].detach().double() for name in active])),
            torch.tensor([self.weights[n] for n in active], dtype=torch.float64).to(device, non_blocking=True),
            None if gradients is None else torch.stack([gradients[name] for name in active]),
            shared_gradient,
            elapsed,
        )

    def _by_name(self, active: list[str], weights: Tensor) -> dict[str, Tensor]:
        zero = torch.zeros((), dtype=torch.float64, device=weights.device)
        found = dict(zip(active, weights.unbind(), strict=True))
        return {name: found.get(name, zero) for name in self.weights}

    # ------------------------------------------------------------------------------- what strategies hear of the run

    @property
    def uses_constant_baselines(self) -> bool:
        """Whether a strategy wants `set_constant_baselines` before the first step."""
        return any(isinstance(slot, UsesConstantBaselines) for slot in self._slots())

    def set_constant_baselines(self, losses: Mapping[str, float]) -> None:
        """Tells the strategy the losses of the best constant prediction, for those losses that have one."""
        for slot in self._slots():
            if isinstance(slot, UsesConstantBaselines):
                slot.set_constant_baselines(losses)

    def update_from_validation(self, losses: Mapping[str, float]) -> None:
        """Tells the strategy the losses on held-out audio, for those losses that can be measured there."""
        for slot in self._slots():
            if isinstance(slot, UsesValidation):
                slot.update_from_validation(losses)

    def _slots(self) -> list[object]:
        strategies = [self.strategy] if self.warmup is None else [self.warmup, self.strategy]
        return [slot for each in strategies for slot in (each.scale, each.direction, each.magnitude)]

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "names": list(self.weights),
            "step": self.step,
            "refreshed": list(self._refreshed),
            "looked": self._looked,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["names"] != list(self.weights):
            raise ValueError(f"this state balances the losses {state['names']}, this balancer {list(self.weights)}")
        self.step = state["step"]
        self._refreshed = state["refreshed"]
        self._looked = state["looked"]


def _true(output: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.bool, device=output.device)


def _gradient(loss: Tensor, output: Tensor) -> Tensor:
    if not loss.requires_grad:
        return torch.zeros_like(output)
    (gradient,) = torch.autograd.grad(loss, [output], retain_graph=True, allow_unused=True)
    return torch.zeros_like(output) if gradient is None else gradient


def _split(losses: Mapping[str, Tensor], gradients: Mapping[str, Tensor] | None) -> tuple[list[str], tuple[str, ...]]:
    """Names of the active losses, and of those dropped as not finite; reads the device once.

    Without gradients the values alone are judged: a loss of exactly 0 has reached its minimum, as a hinge does.
    """
    if not losses:
        return [], ()
    sizes = torch.stack([loss.detach().double().abs() for loss in losses.values()])
    if gradients is None:
        sizes = torch.where(sizes.isfinite(), sizes.sign(), sizes)
    else:
        # Largest entry rather than a norm: it cannot overflow, and it is NaN or inf exactly if an entry is.
        peaks = torch.stack([gradient.abs().amax().double() for gradient in gradients.values()])
        sizes = torch.where(sizes.isfinite(), peaks, sizes)
    # What is wrong in one process is wrong in all: they must agree on what to leave out.
    sizes = largest_over_processes(torch.where(sizes.isnan(), float("inf"), sizes))
    found = dict(zip(losses, sizes.tolist(), strict=True))
    dropped = tuple(name for name, size in found.items() if not size < float("inf"))
    # What has underflowed in float32 is zero: a strategy that divides by its length would overflow.
    underflow = torch.finfo(torch.float32).tiny
    active = [name for name, size in found.items() if underflow <= size < float("inf") and losses[name].requires_grad]
    return active, dropped
