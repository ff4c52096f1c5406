"""The discriminator as a training step sees it: a source of two losses, and a second player that learns."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from codec.training.processes import Processes
from losses import AdversarialLoss, DiscriminatorOutput

__all__ = ["Adversary"]


class Adversary(nn.Module):
    """A discriminator with its loss, its optimizer and the order in which the two players move.

    Args:
        discriminator: Maps audio [B, C, T] to logits and features.
        loss: What the two players want.
        optimizer: Makes the discriminator's optimizer from its parameters.
        update: `simultaneous` runs the discriminator once on reference and estimate and takes the gradients of both
            players from these two graphs. `alternating` lets the discriminator move first and judges with its new
            weights, the paper's order, at the price of a second pass.
        probability: Share of the steps on which the discriminator learns (2/3 at 24 kHz and 1/2 at 48 kHz in the
            paper).
        start: Share of the run from which on the discriminator takes part.

    Attributes:
        processes: Those that train together.

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
        self.processes = Processes()
        self._pending: Tensor | None = None
        self.metrics: dict[str, Tensor] = {}

    def judge(self, estimate: Tensor, reference: Tensor, learn: bool) -> dict[str, Tensor]:
        """The codec's adversarial and feature matching losses.

        Args:
            estimate: Leaf that the codec's gradients are wanted at.
            learn: Whether the discriminator learns from this batch.

        Shape: estimate [B, C, T], reference [B, C, T] -> two scalars.
        """
        self.metrics = {}
        self._pending = None
        if self.update == "alternating":
            if learn:
                self._pending = self._own_loss(self.discriminator(estimate.detach()), self.discriminator(reference))
                self.learn()
                torch.clear_autocast_cache()  # it holds casts of the weights before the move
            with torch.no_grad():
                real: DiscriminatorOutput = self.discriminator(reference)
            # Nothing flows into frozen parameters: only the gradient at the estimate is computed.
            self.discriminator.requires_grad_(False)
            fake: DiscriminatorOutput = self.discriminator(estimate)
            self.discriminator.requires_grad_(True)
        else:
            fake = self.discriminator(estimate)
            with torch.set_grad_enabled(learn):
                real = self.discriminator(reference)
            if learn:
                self._pending = self._own_loss(fake, real)
        return {
            "adversarial": self.loss.generator(fake.logits),
            "feature_matching": self.loss.features(fake.features, [[f.detach() for f in fs] for fs in real.features]),
        }

    def learn(self) -> bool:
        """The discriminator's step on what it judged, if one is due; a gradient that is not finite is not taken.

        Returns:
            Whether a step was taken.
        """
        loss, self._pending = self._pending, None
        if loss is None:
            return False
        parameters = list(self.discriminator.parameters())
        self.optimizer.zero_grad(set_to_none=True)
        # Named inputs: the graph also leads to the estimate, whose gradient is none of this player's business.
        torch.autograd.backward(loss, inputs=parameters)
        self.processes.average_gradients(parameters)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not bool(norm.isfinite()):
            self.optimizer.zero_grad(set_to_none=True)
            return False
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return True

    def _own_loss(self, fake: DiscriminatorOutput, real: DiscriminatorOutput) -> Tensor:
        loss = self.loss.discriminator(fake.logits, real.logits)
        self.metrics = {
            "discriminator/loss": loss.detach(),
            "discriminator/real": torch.stack([logit.detach().float().mean() for logit in real.logits]).mean(),
            "discriminator/fake": torch.stack([logit.detach().float().mean() for logit in fake.logits]).mean(),
        }
        return loss
