"""The discriminator as a training step sees it: a source of two losses, and a second player that learns."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from codec.training.distributed import Processes
from losses import AdversarialLoss, DiscriminatorOutput

__all__ = ["ADVERSARIAL_LOSSES", "AdversarialTraining"]

ADVERSARIAL_LOSSES = ("adversarial", "feature_matching")  # what `AdversarialTraining.generator_losses` returns

_Judge = Callable[[Tensor], DiscriminatorOutput]


class AdversarialTraining(nn.Module):
    """A discriminator with its loss, its optimizer and the order in which the two players move.

    Args:
        discriminator: Maps audio [B, C, T] to logits and features; see `losses.discriminators`.
        loss: What the two players want.
        optimizer: Makes the discriminator's optimizer from its parameters.
        update: `simultaneous` runs the discriminator once on reference and estimate and takes the gradients of both
            players from these two graphs. `alternating` lets the discriminator move first and judges with its new
            weights, the paper's order, at the price of a second pass.
        update_probability: Share of the steps on which the discriminator learns (2/3 at 24 kHz and 1/2 at 48 kHz in the
            paper).
        start_fraction: Share of the run from which on the discriminator takes part.
        one_by_one: Takes all gradients of one sub-discriminator before the next one judges, so that the graph of one
            is held at a time and not those of all. The same losses and gradients. Each of the codec's two losses has a
            backward pass of its own then, as under any strategy that looks at gradients, unless it is told how
            they will be weighed. Two passes add up to what one gives but for rounding, so here, and here alone, a step
            that monitors differs from one that does not by as much.

    Attributes:
        processes: Those that train together.
        metrics: Of the discriminator's own loss, if it learnt from the batch it judged last.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        update: Literal["simultaneous", "alternating"] = "simultaneous",
        update_probability: float = 1.0,
        start_fraction: float = 0.0,
        one_by_one: bool = False,
    ) -> None:
        super().__init__()
        if update not in ("simultaneous", "alternating"):
            raise ValueError(f"discriminator update must be simultaneous or alternating, got {update!r}")
        if not 0 < update_probability <= 1:
            raise ValueError(f"the discriminator's update probability must be in (0, 1], got {update_probability}")
        if not 0 <= start_fraction < 1:
            raise ValueError(f"the discriminator's start must be a share of the run in [0, 1), got {start_fraction}")
        self.discriminator = discriminator
        self.loss = loss
        self.optimizer = optimizer(discriminator.parameters())
        self.update = update
        self.update_probability = update_probability
        self.start_fraction = start_fraction
        self.one_by_one = one_by_one
        self.processes = Processes()
        self.metrics: dict[str, Tensor] = {}
        self._has_gradients = (
            False  # whether the gradients of the discriminator's own loss are there, and no step was taken
        )

    def generator_losses(
        self,
        estimate: Tensor,
        reference: Tensor,
        update_discriminator: bool,
        weights: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The codec's adversarial and feature matching losses.

        Args:
            estimate: Leaf that the codec's gradients are wanted at.
            update_discriminator: Whether the discriminator learns from this batch.
            weights: Of the two losses in the sum whose gradient will be asked for, if that is known
                (`Balancer.foreseen`). One by one, the losses then have no other gradient than that of this sum.

        Shape: estimate [B, C, T], reference [B, C, T] -> two scalars.
        """
        self.zero_grad()
        self.metrics = {}
        moves_first = self.update == "alternating"
        judges = self._judges()
        if moves_first and update_discriminator:
            for judge in judges:
                self._discriminator_backward(
                    *_both(judge, estimate.detach(), reference, update_discriminator), len(judges)
                )
            self.step()
            torch.clear_autocast_cache()  # it holds casts of the weights before the move
        # Nothing flows into frozen parameters: only the gradient at the estimate is computed.
        self.discriminator.requires_grad_(not moves_first)
        teach = update_discriminator and not moves_first
        losses = [
            self._sub_discriminator_losses(judge, estimate, reference, teach, len(judges), weights) for judge in judges
        ]
        self.discriminator.requires_grad_(True)
        # Each has a graph of its own: through one tensor of both, the gradient of one would go back through the other.
        means = (torch.stack(losses).mean() for losses in zip(*losses, strict=True))
        return dict(zip(ADVERSARIAL_LOSSES, means, strict=True))

    def step(self) -> bool:
        """The discriminator's step on what it judged, if one is due; a gradient that is not finite is not taken.

        Returns:
            Whether a step was taken.
        """
        if not self._has_gradients:
            return False
        parameters = list(self.discriminator.parameters())
        self.processes.average_gradients(parameters)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        sound = bool(norm.isfinite())
        if sound:
            self.optimizer.step()
        self.zero_grad()
        return sound

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self._has_gradients = False

    def _judges(self) -> list[_Judge]:
        """All sub-discriminators together, or each by itself."""
        if not self.one_by_one:
            return [self.discriminator]
        return [
            partial(_judged_by, scale) for scale in cast(Iterable[nn.Module], self.discriminator.sub_discriminators)
        ]

    def _sub_discriminator_losses(
        self,
        judge: _Judge,
        estimate: Tensor,
        reference: Tensor,
        update_discriminator: bool,
        of: int,
        weights: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, ...]:
        """The codec's two losses by one of `of` judges, who may update. No graph outlives this if it is one by one.

        Shape: estimate [B, C, T], reference [B, C, T] -> two scalars.
        """
        fake, real = _both(judge, estimate, reference, update_discriminator)
        targets = [[feature.detach() for feature in features] for features in real.features]
        losses: tuple[Tensor, ...] = self.loss.generator(fake.logits), self.loss.features(fake.features, targets)
        if self.one_by_one:
            losses = _without_graph(losses, estimate, weights)
        if update_discriminator:
            self._discriminator_backward(fake, real, of)
        return losses

    def _discriminator_backward(self, fake: DiscriminatorOutput, real: DiscriminatorOutput, of: int) -> None:
        """Takes the gradient of the discriminator's own loss, of which one of `of` judges makes a part."""
        loss = self.loss.discriminator(fake.logits, real.logits) / of
        # Named inputs: the graph also leads to the estimate, whose gradient is none of this player's business.
        with torch.autocast(loss.device.type, enabled=False):
            torch.autograd.backward(loss, inputs=list(self.discriminator.parameters()), retain_graph=True)
        seen = {"discriminator/loss": loss.detach()}
        for name, logits in (("real", real.logits), ("fake", fake.logits)):
            seen[f"discriminator/{name}"] = torch.stack([each.detach().float().mean() for each in logits]).mean() / of
        self.metrics = {name: self.metrics.get(name, 0) + value for name, value in seen.items()}
        self._has_gradients = True


def _judged_by(scale: nn.Module, audio: Tensor) -> DiscriminatorOutput:
    """Shape: audio [B, C, T] -> one logit, one list of features."""
    logits, features = scale(audio.flatten(0, 1))
    return DiscriminatorOutput([logits], [features])


def _both(
    judge: _Judge, estimate: Tensor, reference: Tensor, update_discriminator: bool
) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
    """What it says of each: of the reference with a graph only if that is to be learnt from.

    Shape: estimate [B, C, T], reference [B, C, T].
    """
    fake = judge(estimate)
    with torch.set_grad_enabled(update_discriminator):
        return fake, judge(reference)


def _without_graph(
    losses: tuple[Tensor, ...], estimate: Tensor, weights: Mapping[str, Tensor] | None
) -> tuple[Tensor, ...]:
    """The same two scalars with their gradients at the estimate, or that of their weighted sum.

    Shape: estimate [B, C, T].
    """
    if weights is None:
        return tuple(_Known.apply(loss.detach(), estimate, _gradient(loss, estimate)) for loss in losses)
    pair, values = torch.stack([weights[name] for name in ADVERSARIAL_LOSSES]), torch.stack(losses)
    gradient = _gradient((pair * values).sum(), estimate)
    return cast(Tensor, _KnownSum.apply(values.detach(), estimate, pair, gradient)).unbind()


def _gradient(loss: Tensor, estimate: Tensor) -> Tensor:
    with torch.autocast(loss.device.type, enabled=False):
        return torch.autograd.grad(loss, [estimate], retain_graph=True)[0]


class _Known(torch.autograd.Function):
    """A scalar with its gradient at a tensor instead of a graph."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, at: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, slope * gradient, None


class _KnownSum(torch.autograd.Function):
    """Scalars [n] of which only the gradient of their weighted sum is known, and asked for: slopes are multiples of the
    weights. A scalar may be left out, with a slope of 0, that is 0 and at its minimum: it had no part in the sum."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, at: Tensor, weights: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(weights, gradient)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[None, Tensor, None, None]:
        weights, gradient = ctx.saved_tensors
        asked = weights.square().where(slopes != 0, 0).sum()
        multiple = (slopes * weights).sum() / asked.clamp_min(torch.finfo(weights.dtype).tiny)
        return None, multiple.to(gradient.dtype) * gradient, None, None
