"""A batch computed in parts, one after the other: the memory of one part, and the step of the whole batch.

The losses are functions of the codec's output. Their gradients there are computed part by part, and the balancer gets
those of the whole batch. The codec runs twice: without gradients to get its output, and again, part by part, for the
backward pass. A loss must be a mean over the items of a batch. The relative feature matching loss and spectral
convergence divide by levels of the reference; in parts these are the levels of each part.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from codec.model import CodecOutput
from codec.quantization import QuantizerOutput

__all__ = ["backward", "backward_in_parts", "forward_in_parts", "losses_in_parts"]


def losses_in_parts(
    losses: Callable[[Tensor, Tensor], Mapping[str, Tensor]], estimate: Tensor, reference: Tensor, parts: int
) -> dict[str, Tensor]:
    """Means of the losses of all parts, as functions of `estimate`. With several parts no graph of a loss is kept.

    Args:
        losses: Losses by name of (estimate, reference).
        estimate: A leaf that requires a gradient.
        parts: Divides the batch.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalars.
    """
    if parts == 1:
        return dict(losses(estimate, reference))
    values: dict[str, list[Tensor]] = defaultdict(list)
    gradients: dict[str, list[Tensor]] = defaultdict(list)
    for part, target in zip(estimate.detach().chunk(parts), reference.chunk(parts), strict=True):
        leaf = part.clone().requires_grad_()
        for name, loss in losses(leaf, target).items():
            values[name].append(loss.detach())
            if loss.requires_grad:
                with torch.autocast(leaf.device.type, enabled=False):  # backward passes run outside of it
                    (gradient,) = torch.autograd.grad(loss, [leaf], retain_graph=True, allow_unused=True)
                gradients[name].append(torch.zeros_like(leaf) if gradient is None else gradient)
    means = {name: torch.stack(each).mean() for name, each in values.items()}
    return means | {
        name: _WithGradient.apply(estimate, means[name], torch.cat(each) / parts) for name, each in gradients.items()
    }


@torch.no_grad()
def forward_in_parts(forward: Callable[[Tensor], CodecOutput], audio: Tensor, parts: int) -> CodecOutput:
    """The output for the whole batch, without gradients.

    Shape: audio [B, C, T] -> CodecOutput.
    """
    outputs = [forward(part) for part in audio.chunk(parts)]
    quantized = [output.quantized for output in outputs if output.quantized is not None]
    merged = None
    if quantized:
        merged = QuantizerOutput(
            torch.cat([each.latent for each in quantized]),
            torch.cat([each.codes for each in quantized]),
            torch.stack([each.commitment for each in quantized]).mean(0),
            torch.cat([each.residuals for each in quantized], dim=min(1, quantized[0].residuals.dim() - 1)),
        )
    whole = torch.cat([output.audio for output in outputs])
    return CodecOutput(whole, torch.cat([output.latent for output in outputs]), merged)


def backward(output: CodecOutput, gradient: Tensor, commitment: Tensor, share: float = 1.0) -> None:
    """The backward pass through the codec: from the gradient at its output, and from the commitment loss.

    The commitment loss is no function of the output, so it is not balanced.

    Args:
        commitment: The weighted commitment loss; without a graph it is left out.
        share: Factor of the commitment loss, for one part of a batch.

    Shape: gradient [B, C, T], commitment [].
    """
    roots, gradients = [output.audio], [gradient.to(output.audio.dtype)]
    if commitment.requires_grad:
        roots.append(commitment)
        gradients.append(torch.full_like(commitment, share))
    torch.autograd.backward(roots, gradients)


def backward_in_parts(
    forward: Callable[[Tensor], CodecOutput],
    commitment_loss: Callable[[CodecOutput], Tensor],
    network: nn.Module,
    audio: Tensor,
    gradient: Tensor,
    parts: int,
) -> None:
    """Adds the gradients of the whole batch to those of the parameters.

    Args:
        forward: As in `forward_in_parts`.
        commitment_loss: The weighted commitment loss of an output.
        network: What `forward` runs. Of a data-parallel one only the last part averages gradients over processes.

    Shape: audio [B, C, T], gradient [B, C, T] at the output.
    """
    wait = getattr(network, "no_sync", nullcontext)
    for number, (part, slope) in enumerate(zip(audio.chunk(parts), gradient.chunk(parts), strict=True)):
        with wait() if number < parts - 1 else nullcontext():
            output = forward(part)
            backward(output, slope, commitment_loss(output), 1 / parts)


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient is known. Shape: at [*], value [], gradient [*] -> []."""

    @staticmethod
    def forward(ctx: Any, at: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return slope * gradient, None, None
