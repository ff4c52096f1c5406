"""Adversarial training: the discriminator, its loss, its optimizer, and the order of updates."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from codec.training.distributed import Processes
from losses import DiscriminatorOutput, GANLoss

__all__ = ["AdversarialTraining"]


class AdversarialTraining(nn.Module):
    """A discriminator with its loss and its optimizer.

    Args:
        discriminator: Maps audio [B, C, T] to a `DiscriminatorOutput`.
        loss: Losses of the codec and of the discriminator.
        optimizer: Makes the discriminator's optimizer from its parameters.
        update: Order of the updates. `simultaneous` runs the discriminator once on estimate and reference and uses
            this pass for the losses of both networks. `alternating` updates the discriminator first and computes the
            codec's losses with the new weights (the order of the EnCodec paper), which takes a second pass.
        update_probability: Share of the steps that update the discriminator. The paper uses 2/3 at 24 kHz and 1/2 at
            48 kHz.
        start_fraction: Share of the run before which the discriminator is not used.
        processes: The processes that train together.

    Attributes:
        metrics: Loss and mean logits of the discriminator in its last update; empty after a step without one.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: GANLoss,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        update: Literal["simultaneous", "alternating"] = "simultaneous",
        update_probability: float = 1.0,
        start_fraction: float = 0.0,
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        if update not in ("simultaneous", "alternating"):
            raise ValueError(f"adversarial.update must be simultaneous or alternating, got {update!r}")
        if not 0 < update_probability <= 1:
            raise ValueError(f"adversarial.update_probability must be in (0, 1], got {update_probability}")
        if not 0 <= start_fraction < 1:
            raise ValueError(f"adversarial.start_fraction must be in [0, 1), got {start_fraction}")
        self.discriminator = discriminator
        self.loss = loss
        self.optimizer = optimizer(discriminator.parameters())
        self.update = update
        self.update_probability = update_probability
        self.start_fraction = start_fraction
        self.processes = processes or Processes()
        self.metrics: dict[str, Tensor] = {}
        self._has_gradients = False

    def generator_losses(self, estimate: Tensor, reference: Tensor, update_discriminator: bool) -> dict[str, Tensor]:
        """The codec's losses by name, for example adversarial and feature matching.

        With simultaneous updates this also computes the discriminator's gradients, which `step` applies.

        Args:
            estimate: Leaf tensor at which the codec's gradients are taken.
            update_discriminator: Whether this step updates the discriminator.

        Shape: estimate [B, C, T], reference [B, C, T] -> scalars.
        """
        self.zero_grad()
        self.metrics = {}
        if update_discriminator and self.update == "alternating":
            self._discriminator_backward(*self._outputs(estimate.detach(), reference))
            self.step()
            torch.clear_autocast_cache()  # it may hold casts of the old weights
            update_discriminator = False
        # With frozen parameters only the gradient at the estimate is computed.
        self.discriminator.requires_grad_(update_discriminator)
        fake, real = self._outputs(estimate, reference)
        self.discriminator.requires_grad_(True)
        losses = self.loss.generator_losses(fake, real)
        if update_discriminator:
            self._discriminator_backward(fake, real)
        return losses

    def step(self) -> bool:
        """Updates the discriminator if `generator_losses` left gradients for it, and clears them.

        Returns:
            Whether an update was made. Gradients that are not finite are discarded.
        """
        if not self._has_gradients:
            return False
        parameters = list(self.discriminator.parameters())
        self.processes.average_gradients(parameters)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        is_finite = bool(norm.isfinite())
        if is_finite:
            self.optimizer.step()
        self.zero_grad()
        return is_finite

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)
        self._has_gradients = False

    def _outputs(self, estimate: Tensor, reference: Tensor) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
        """Shape: estimate [B, C, T], reference [B, C, T]."""
        return self.discriminator(estimate), self.discriminator(reference)

    def _discriminator_backward(self, fake: DiscriminatorOutput, real: DiscriminatorOutput) -> None:
        """Computes the gradients of the discriminator's own loss."""
        loss = self.loss.discriminator_loss(fake, real)
        # The graph also leads to the estimate. `inputs` keeps this gradient out of it.
        with torch.autocast(loss.device.type, enabled=False):
            torch.autograd.backward(loss, inputs=list(self.discriminator.parameters()), retain_graph=True)
        self.metrics = {"discriminator/loss": loss.detach()}
        for name, logits in (("real", real.logits), ("fake", fake.logits)):
            means = [logit.detach().float().mean() for logit in logits]
            self.metrics[f"discriminator/{name}"] = torch.stack(means).mean()
        self._has_gradients = True
