"""The discriminator as a training step sees it: a source of two losses, and a second player that learns."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from codec.training.processes import Processes
from losses import AdversarialLoss, DiscriminatorOutput

__all__ = ["Adversary"]

_Judge = Callable[[Tensor], DiscriminatorOutput]


class Adversary(nn.Module):
    """A discriminator with its loss, its optimizer and the order in which the two players move.

    Args:
        discriminator: Maps audio [B, C, T] to logits and features; has `scales`, see `losses.discriminators`.
        loss: What the two players want.
        optimizer: Makes the discriminator's optimizer from its parameters.
        update: `simultaneous` runs the discriminator once on reference and estimate and takes the gradients of both
            players from these two graphs. `alternating` lets the discriminator move first and judges with its new
            weights, the paper's order, at the price of a second pass.
        probability: Share of the steps on which the discriminator learns (2/3 at 24 kHz and 1/2 at 48 kHz in the
            paper).
        start: Share of the run from which on the discriminator takes part.
        one_by_one: Takes all gradients of one sub-discriminator before the next one judges, so that the graph of one
            is held at a time and not those of all. The same losses and gradients. Each of the codec's two losses then
            has a backward pass of its own, which a strategy that looks at gradients costs anyway.

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
        probability: float = 1.0,
        start: float = 0.0,
        one_by_one: bool = False,
    ) -> None:
        super().__init__()
        if update not in ("simultaneous", "alternating"):
            raise ValueError(f"discriminator update must be simultaneous or alternating, got {update!r}")
        if not 0 < probability <= 1:
            raise ValueError(f"the discriminator's update probability must be in (0, 1], got {probability}")
        if not 0 <= start < 1:
            raise ValueError(f"the discriminator's start must be a share of the run in [0, 1), got {start}")
        self.discriminator = discriminator
        self.loss = loss
        self.optimizer = optimizer(discriminator.parameters())
        self.update = update
        self.probability = probability
        self.start = start
        self.one_by_one = one_by_one
        self.processes = Processes()
        self.metrics: dict[str, Tensor] = {}
        self._due = False  # whether the gradients of the discriminator's own loss are there, and no step was taken

    def judge(self, estimate: Tensor, reference: Tensor, learn: bool) -> dict[str, Tensor]:
        """The codec's adversarial and feature matching losses.

        Args:
            estimate: Leaf that the codec's gradients are wanted at.
            learn: Whether the discriminator learns from this batch.

        Shape: estimate [B, C, T], reference [B, C, T] -> two scalars.
        """
        self._forget()
        self.metrics = {}
        moves_first = self.update == "alternating"
        judges = self._judges()
        if moves_first and learn:
            for judge in judges:
                self._teach(*_both(judge, estimate.detach(), reference, learn), len(judges))
            self.learn()
            torch.clear_autocast_cache()  # it holds casts of the weights before the move
        # Nothing flows into frozen parameters: only the gradient at the estimate is computed.
        self.discriminator.requires_grad_(not moves_first)
        verdicts = [self._hear(judge, estimate, reference, learn and not moves_first, len(judges)) for judge in judges]
        self.discriminator.requires_grad_(True)
        adversarial, features = zip(*verdicts, strict=True)
        return {"adversarial": torch.stack(adversarial).mean(), "feature_matching": torch.stack(features).mean()}

    def learn(self) -> bool:
        """The discriminator's step on what it judged, if one is due; a gradient that is not finite is not taken.

        Returns:
            Whether a step was taken.
        """
        if not self._due:
            return False
        parameters = list(self.discriminator.parameters())
        self.processes.average_gradients(parameters)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        sound = bool(norm.isfinite())
        if sound:
            self.optimizer.step()
        self._forget()
        return sound

    def _forget(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self._due = False

    def _judges(self) -> list[_Judge]:
        """All sub-discriminators together, or each by itself."""
        if not self.one_by_one:
            return [self.discriminator]
        return [partial(_judged_by, scale) for scale in cast(Iterable[nn.Module], self.discriminator.scales)]

    def _hear(self, judge: _Judge, estimate: Tensor, reference: Tensor, learn: bool, of: int) -> tuple[Tensor, Tensor]:
        """The codec's two losses by one of `of` judges, who may learn. No graph outlives this if it is one by one."""
        fake, real = _both(judge, estimate, reference, learn)
        targets = [[feature.detach() for feature in features] for features in real.features]
        losses = self.loss.generator(fake.logits), self.loss.features(fake.features, targets)
        if self.one_by_one:
            losses = _with_gradient(losses[0], estimate), _with_gradient(losses[1], estimate)
        if learn:
            self._teach(fake, real, of)
        return losses

    def _teach(self, fake: DiscriminatorOutput, real: DiscriminatorOutput, of: int) -> None:
        """Takes the gradient of the discriminator's own loss, of which one of `of` judges makes a part."""
        loss = self.loss.discriminator(fake.logits, real.logits) / of
        # Named inputs: the graph also leads to the estimate, whose gradient is none of this player's business.
        with torch.autocast(loss.device.type, enabled=False):
            torch.autograd.backward(loss, inputs=list(self.discriminator.parameters()), retain_graph=True)
        seen = {"discriminator/loss": loss.detach()}
        for name, logits in (("real", real.logits), ("fake", fake.logits)):
            seen[f"discriminator/{name}"] = torch.stack([each.detach().float().mean() for each in logits]).mean() / of
        self.metrics = {name: self.metrics.get(name, 0) + value for name, value in seen.items()}
        self._due = True


def _judged_by(scale: nn.Module, audio: Tensor) -> DiscriminatorOutput:
    """Shape: audio [B, C, T] -> one logit, one list of features."""
    logits, features = scale(audio.flatten(0, 1))
    return DiscriminatorOutput([logits], [features])


def _both(
    judge: _Judge, estimate: Tensor, reference: Tensor, learn: bool
) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
    """What it says of each: of the reference with a graph only if that is to be learnt from.

    Shape: estimate [B, C, T], reference [B, C, T].
    """
    fake = judge(estimate)
    with torch.set_grad_enabled(learn):
        return fake, judge(reference)


def _with_gradient(loss: Tensor, estimate: Tensor) -> Tensor:
    """The same scalar with its gradient at the estimate instead of a graph."""
    with torch.autocast(loss.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(loss, [estimate], retain_graph=True)
    return cast(Tensor, _Known.apply(loss.detach(), estimate, gradient))


class _Known(torch.autograd.Function):
    """A scalar whose gradient at a tensor is known."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, at: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, slope * gradient, None
