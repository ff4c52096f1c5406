"""Adversarial training: the discriminator, its loss, its optimizer, and the order of updates."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from codec.ranges import PositiveFraction, ProperFraction, check_ranges
from codec.training.accumulation import losses_in_parts
from codec.training.distributed import Processes
from losses import DiscriminatorOutput, GANLoss, discriminator_for, mean_logits

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
        metrics: Loss and mean logits of the discriminator in its last update, also of each of its parts; empty after a
            step without one.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: GANLoss,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        update: Literal["simultaneous", "alternating"] = "simultaneous",
        update_probability: PositiveFraction = 1.0,
        start_fraction: ProperFraction = 0.0,
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        check_ranges(AdversarialTraining.__init__, locals(), "adversarial.")
        self.discriminator = discriminator
        self.loss = loss
        self.optimizer = optimizer(discriminator.parameters())
        self.update = update
        self.update_probability = update_probability
        self.start_fraction = start_fraction
        self.processes = processes or Processes()
        self.metrics: dict[str, Tensor] = {}
        self._has_gradients = False

    def generator_losses(
        self,
        estimate: Tensor,
        reference: Tensor,
        update_discriminator: bool,
        parts: int = 1,
        bandwidth_kbps: float | None = None,
    ) -> dict[str, Tensor]:
        """The codec's losses by name, for example adversarial and feature matching.

        With simultaneous updates this also computes the discriminator's gradients, which `step` applies.

        Args:
            estimate: Leaf tensor at which the codec's gradients are taken.
            update_discriminator: Whether this step updates the discriminator.
            parts: The batch is computed in this number of parts; see `codec.training.accumulation`.
            bandwidth_kbps: Bitrate of the batch in kbit/s, for a discriminator that has a part for each.

        Shape: estimate [B, C, T], reference [B, C, T] -> scalars.
        """
        self.zero_grad()
        self.metrics = {}
        network = discriminator_for(self.discriminator, bandwidth_kbps)
        if update_discriminator and self.update == "alternating":
            for fake, real in zip(estimate.detach().chunk(parts), reference.chunk(parts), strict=True):
                self._discriminator_backward(network, *_joint_outputs(network, fake, real), parts)
            self.step()
            torch.clear_autocast_cache()  # it may hold casts of the old weights
            update_discriminator = False

        def part_losses(estimate: Tensor, reference: Tensor) -> dict[str, Tensor]:
            with parametrize.cached():  # weight norm is computed once for both
                fake, real = network(estimate), network(reference)
            losses = self.loss.generator_losses(fake, real)
            if update_discriminator:
                self._discriminator_backward(network, fake, real, parts)
            return losses

        # With frozen parameters only the gradient at the estimate is computed.
        network.requires_grad_(update_discriminator)
        losses = losses_in_parts(part_losses, estimate, reference, parts)
        network.requires_grad_(True)
        return losses

    def step(self) -> bool:
        """Updates the discriminator if `generator_losses` left gradients for it, and clears them.

        Gradients that are not finite are discarded. Fused optimizers check this on the device, others on the host.

        Returns:
            Whether an update was made or, with a fused optimizer, is made if the gradients are finite.
        """
        if not self._has_gradients:
            return False
        parameters = list(self.discriminator.parameters())
        self.processes.average_gradients(parameters)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        optimizer: Any = self.optimizer
        checks = getattr(optimizer, "_step_supports_amp_scaling", False)
        if checks:  # as torch.amp.GradScaler does
            # The difference is 0 if the norm is finite, else NaN.
            optimizer.grad_scale, optimizer.found_inf = None, (norm - norm).nan_to_num(nan=1.0)
        updates = checks or bool(norm.isfinite())
        if updates:
            optimizer.step()
        if checks:
            del optimizer.grad_scale, optimizer.found_inf
        self.zero_grad()
        return updates

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)
        self._has_gradients = False

    def _discriminator_backward(
        self, network: nn.Module, fake: DiscriminatorOutput, real: DiscriminatorOutput, parts: int
    ) -> None:
        """Adds the gradients of the discriminator's own loss for one of the parts of the batch."""
        loss, share = self.loss.discriminator_loss(fake, real), 1 / parts
        # The graph also leads to the estimate. `inputs` keeps this gradient out of it.
        with torch.autocast(loss.device.type, enabled=False):
            slope = torch.full_like(loss, share)
            torch.autograd.backward(loss, slope, inputs=list(network.parameters()), retain_graph=True)
        names = {"": range(len(fake.logits))} | {
            f"/{part}": [i for i, other in enumerate(fake.parts) if other == part] for part in dict.fromkeys(fake.parts)
        }
        metrics = {"discriminator/loss": loss.detach()}
        for suffix, indices in names.items():
            means = mean_logits(*([output.logits[i] for i in indices] for output in (real, fake)))
            metrics |= {
                f"discriminator/{name}{suffix}": mean for name, mean in zip(("real", "fake"), means, strict=True)
            }
        for name, value in metrics.items():
            mean = value if parts == 1 else share * value
            self.metrics[name] = self.metrics[name] + mean if name in self.metrics else mean
        self._has_gradients = True


def _joint_outputs(
    network: nn.Module, estimate: Tensor, reference: Tensor
) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
    """Outputs for estimate and reference from one pass, which saves launches if gradients of both are needed.

    Shape: estimate [B, C, T], reference [B, C, T].
    """
    both = network(torch.cat([estimate, reference]))
    # Split once: the gradient of a split is one concatenation.
    logits = [each.chunk(2) for each in both.logits]
    features = [[layer.chunk(2) for layer in layers] for layers in both.features]
    fake, real = (
        DiscriminatorOutput(
            [each[half] for each in logits], [[layer[half] for layer in each] for each in features], both.parts
        )
        for half in (0, 1)
    )
    return fake, real
