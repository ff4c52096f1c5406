"""Combines the gradients of many losses at the decoder output (Défossez et al. 2022, section 3.4, generalised).

    scale      multiplies each loss by a factor, from loss values, gradient norms or averages of them
    direction  weights the scaled gradients against each other
    magnitude  sets the norm of the result

EnCodec's balancer is (ema_norm, sum, keep), a plain weighted sum (static, sum, keep). The weights from the config
multiply after the scale. With a scale that normalises gradients they are therefore shares.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from balancer.active_losses import classify, gradient_peaks, gradient_sizes
from balancer.checks import check_range
from balancer.gradient_report import GradientReport, report_gradients
from balancer.processes import max_over_processes, mean_over_processes
from balancer.statistics import Measurement, SharedGradient, Statistics, like
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
    """The strategy of the first steps. The main strategy starts with empty state after it."""

    steps: int
    scale: Scale
    direction: Direction
    magnitude: Magnitude


class Balanced(NamedTuple):
    """Result of one step."""

    gradient: Tensor  # [B, C, T], the gradient for the decoder output
    # Weight of each loss's gradient (the mean, if elements differ); 0 if inactive. Scalars on the host or the device.
    weights: dict[str, Tensor]
    dropped: tuple[str, ...]  # losses that were left out because their value or gradient was not finite
    is_finite: Tensor  # [] bool: the strategy's weights are finite; otherwise the caller must skip the step
    report: GradientReport | None  # in monitoring steps


class Balancer(nn.Module):
    """Engine that runs every strategy.

    A loss is inactive in a step if it is missing, constant, has weight 0 or a value that is not finite. It gets weight
    0 and is not passed to the strategy, so it does not affect the state. In steps with per-loss gradients, a loss whose
    gradient is zero or not finite is inactive as well. Without them gradients are not checked one by one, so that
    monitoring does not affect training. Then a loss of exactly 0 counts as inactive, and a finite loss with a NaN
    gradient makes the result NaN, as in a plain sum. The caller must skip that step.

    The balancer's own state stays on the host. A step waits for the device once, when it reads the values of the losses
    and what the strategy measured in its last step. Only a strategy's first step, monitoring and `refresh_every` with a
    magnitude wait more often.

    Args:
        weights: Weight of each loss by name.
        scale, direction, magnitude: The strategy.
        monitor_every: Interval in steps between reports of gradient norms and cosines; 0 disables them. A report takes
            one backward pass for each loss. Strategies of loss values take one backward pass in all other steps.
        refresh_every: Interval in steps between refreshes of the weights from per-loss gradients. In between the last
            weights are reused, and a step takes one backward pass of the weighted sum. Averages keep their time
            constant. A change of the losses that are present also causes a refresh. Weights for every element are
            never reused.
        refresh_from: Number of steps at the start of a strategy in which every step is a refresh.
        warmup: Another strategy for the first steps.

    Attributes:
        step: Number of calls so far; part of the state.

    Buffers:
        last_weights [M]: Weights of the last refresh.

    Raises:
        ValueError: No weight is positive, a weight is negative or not finite, or a setting is out of range.
    """

    last_weights: Tensor

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
        if not any(weights.values()) or not all(0 <= weight < float("inf") for weight in weights.values()):
            raise ValueError(f"loss weights must be finite and >= 0, and one of them > 0; got {dict(weights)}")
        check_range("[0, inf)", monitor_every=monitor_every, refresh_from=refresh_from)
        check_range("[1, inf)", refresh_every=refresh_every)
        if warmup is not None:
            check_range("[1, inf)", **{"warmup.steps": warmup.steps})
        self.weights = dict(weights)
        self.strategy = Strategy(scale, direction, magnitude, self.weights)
        self.warmup = None if warmup is None else Strategy(*warmup[1:], self.weights)
        self.warmup_steps = 0 if warmup is None else warmup.steps
        self.monitor_every = monitor_every
        self.refresh_every = refresh_every
        self.refresh_from = refresh_from
        self.step = 0
        self.register_buffer("last_weights", torch.zeros(len(self.weights), dtype=torch.float64))
        self._refreshed_names: list[str] = []  # losses that last_weights hold for
        self._last_refresh: int | None = None  # step
        self._measurements: dict[Hashable, Measurement] = {}  # of the last step, which this step reads ahead

    def forward(
        self, losses: Mapping[str, Tensor], output: Tensor, shared_gradient: SharedGradient | None = None
    ) -> Balanced:
        """Combines the gradients of `losses` at `output`. The graphs of the losses are kept.

        Args:
            losses: Scalars that depend on `output`, by name.
            output: A leaf that requires a gradient.
            shared_gradient: For strategies that use gradients at the shared parameters.

        Shape: output [B, C, T] -> Balanced.

        Raises:
            ValueError: A loss has no weight, the output is not a float32 leaf with a gradient, or the strategy needs
                `shared_gradient`. The message says which.
        """
        unknown = sorted(set(losses) - set(self.weights))
        if unknown:
            raise ValueError(f"no weight for the loss {', '.join(unknown)}; there are weights for {list(self.weights)}")
        if not output.requires_grad or output.dtype not in (torch.float32, torch.float64):
            expected = "the output must be float32 and require a gradient"
            raise ValueError(f"{expected}, got {output.dtype} and requires_grad={output.requires_grad}")
        with torch.autocast(output.device.type, enabled=False):  # it would round the weights to bfloat16
            balanced = self._balance(losses, output, shared_gradient)
        self.step += 1
        return balanced

    def _balance(
        self, losses: Mapping[str, Tensor], output: Tensor, shared_gradient: SharedGradient | None
    ) -> Balanced:
        strategy = self.strategy if self.warmup is None or self.step >= self.warmup_steps else self.warmup
        present = [name for name, weight in self.weights.items() if weight > 0 and name in losses]
        reuse = strategy.needs_gradients and self._can_reuse(present)
        refresh = strategy.needs_gradients and not reuse
        monitoring = self.monitor_every > 0 and self.step % self.monitor_every == 0
        gradients = _gradients({name: losses[name] for name in present}, output) if refresh or monitoring else None
        statistics, dropped = self._read(present, losses, gradients if refresh else None, shared_gradient)
        active = [list(self.weights)[i] for i in statistics.index.tolist()]
        if not active:
            no_weights = self._by_name(active, torch.zeros(0, dtype=torch.float64))
            return Balanced(torch.zeros_like(output), no_weights, dropped, torch.tensor(True), None)
        combined = CombinedGradient(self.last_weights[statistics.index], None) if reuse else strategy(statistics)
        if not reuse:
            self._measurements = statistics.used
        weights = combined.weights if combined.weights.ndim == 1 else combined.weights.double().mean(1)
        is_finite = weights.isfinite().all()
        if refresh:
            self._last_refresh = self.step
        if refresh and self.refresh_every > 1:
            self.last_weights.zero_()[statistics.index] = weights.cpu()
            reusable = combined.weights.ndim == 1 and not dropped and bool(is_finite)
            self._refreshed_names = present if reusable else []
        gradient = combined.gradient
        if gradient is None:
            gradient = _gradient([losses[name] for name in active], output, like(combined.weights, output)).flatten()
        report = None
        if monitoring:  # the gradient was computed as in any other step, so that monitoring does not affect training
            statistics = self._statistics(active, statistics.losses, gradients, shared_gradient)
            report = report_gradients(tuple(active), statistics, CombinedGradient(combined.weights, gradient))
        return Balanced(gradient.view_as(output), self._by_name(active, weights), dropped, is_finite, report)

    def _can_reuse(self, present: list[str]) -> bool:
        """Whether the weights of the last refresh hold for this step."""
        strategy_start = 0 if self.step < self.warmup_steps else self.warmup_steps
        starting = self.step - strategy_start < max(self.refresh_from, 1)
        return not starting and self.step % self.refresh_every != 0 and present == self._refreshed_names

    def _elapsed(self) -> int:
        """Steps since the last refresh of the current strategy; 1 if there was none."""
        last = self._last_refresh
        return 1 if last is None or last < self.warmup_steps <= self.step else self.step - last

    def _read(
        self,
        present: list[str],
        losses: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor] | None,
        shared_gradient: SharedGradient | None,
    ) -> tuple[Statistics, tuple[str, ...]]:
        """Statistics of the active losses, and names of the losses that are not finite; the same in all processes.

        All values come from the device in one transfer: losses, what the strategy measured last time, and the peaks of
        gradients.
        """
        if not present:
            return self._statistics([], torch.zeros(0, dtype=torch.float64), None, shared_gradient), ()
        values = torch.stack([losses[name].detach() for name in present]).double()
        statistics = self._statistics(present, mean_over_processes(values), gradients, shared_gradient)
        measured: dict[Hashable, Tensor] = {}
        if gradients is not None:
            measured = {name: measure(statistics) for name, measure in self._measurements.items()}
        parts = [statistics.losses, *measured.values()]
        if statistics.gradients is not None:
            parts.append(max_over_processes(gradient_peaks(statistics.gradients)))
        joined = torch.cat([part.double().flatten() for part in parts]) if len(parts) > 1 else parts[0]
        host = joined.cpu().split([part.numel() for part in parts])
        known = {name: part.view(each.shape) for (name, each), part in zip(measured.items(), host[1:], strict=False)}
        sizes = gradient_sizes(host[0], None if statistics.gradients is None else host[-1])
        active, dropped = classify({name: losses[name] for name in present}, sizes.tolist())
        if active == present:
            return replace(statistics, losses=host[0], known=known), dropped
        by_name = dict(zip(present, host[0], strict=True))
        values = torch.stack([by_name[name] for name in active]) if active else host[0][:0]
        return self._statistics(active, values, gradients, shared_gradient), dropped

    def _statistics(
        self,
        active: list[str],
        losses: Tensor,
        gradients: Mapping[str, Tensor] | None,
        shared_gradient: SharedGradient | None,
    ) -> Statistics:
        """Shape: losses [m]."""
        position = {name: index for index, name in enumerate(self.weights)}
        return Statistics(
            torch.tensor([position[name] for name in active], dtype=torch.int64),
            losses,
            torch.tensor([self.weights[name] for name in active], dtype=torch.float64),
            torch.stack([gradients[name] for name in active]) if gradients is not None and active else None,
            shared_gradient,
            self._elapsed(),
        )

    def _by_name(self, active: list[str], weights: Tensor) -> dict[str, Tensor]:
        zero = torch.zeros((), dtype=torch.float64, device=weights.device)
        by_name = dict(zip(active, weights.unbind(), strict=True))
        return {name: by_name.get(name, zero) for name in self.weights}

    # ------------------------------------------------------------------------ inputs of strategies between steps

    @property
    def uses_constant_baselines(self) -> bool:
        """Whether a strategy needs `set_constant_baselines` before the first step."""
        return any(isinstance(slot, UsesConstantBaselines) for slot in self._slots())

    def set_constant_baselines(self, losses: Mapping[str, float]) -> None:
        """Passes the losses of the best constant prediction to the strategies that use them."""
        for slot in self._slots():
            if isinstance(slot, UsesConstantBaselines):
                slot.set_constant_baselines(losses)

    def update_from_validation(self, losses: Mapping[str, float]) -> None:
        """Passes the losses on held-out audio to the strategies that use them."""
        for slot in self._slots():
            if isinstance(slot, UsesValidation):
                slot.update_from_validation(losses)

    def _slots(self) -> Iterable[object]:
        return (*(self.warmup.slots if self.warmup is not None else ()), *self.strategy.slots)

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "names": list(self.weights),
            "step": self.step,
            "refreshed_names": list(self._refreshed_names),
            "last_refresh": self._last_refresh,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["names"] != list(self.weights):
            raise ValueError(f"the state is for the losses {state['names']}, but the balancer has {list(self.weights)}")
        self.step = state["step"]
        self._refreshed_names = state["refreshed_names"]
        self._last_refresh = state["last_refresh"]


def _gradients(losses: Mapping[str, Tensor], output: Tensor) -> dict[str, Tensor]:
    """The gradient of each loss."""
    slopes = torch.ones(len(losses), 1, dtype=output.dtype, device=output.device)
    return {name: _gradient([loss], output, slope) for (name, loss), slope in zip(losses.items(), slopes, strict=True)}


def _gradient(losses: Sequence[Tensor], output: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the weighted sum, in one backward pass. Shape: output [B, C, T], weights [m] -> [B, C, T]."""
    pairs = [pair for pair in zip(losses, weights.unbind(), strict=True) if pair[0].requires_grad]
    if not pairs:
        return torch.zeros_like(output)
    roots, slopes = [loss for loss, _ in pairs], [weight.to(loss.dtype) for loss, weight in pairs]
    (gradient,) = torch.autograd.grad(roots, [output], slopes, retain_graph=True, allow_unused=True)
    return torch.zeros_like(output) if gradient is None else gradient
