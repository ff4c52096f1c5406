"""Metrics of a training step by their names in the log: losses, weights, gradients, levels and codebooks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer import GradientReport
from codec.model import CodecOutput
from codec.quantization import CodebookUsage
from codec.training.adversarial import AdversarialTraining

__all__ = ["balance_metrics", "codebook_metrics", "loss_properties", "step_metrics"]

_SILENCE = 1e-3  # RMS, -60 dB: the sampler's threshold of silence


def balance_metrics(report: GradientReport | None, output: CodecOutput, commitment: Tensor) -> dict[str, Tensor]:
    """Metrics of the balancer's gradient report, empty between monitoring steps.

    Must be called before the backward pass of the step. That pass adds `commitment_ratio` to the returned dict, unless
    the latents were not quantized. The gradients of the step are not changed.

    Args:
        report: The balancer's report, None between monitoring steps.
        output: Of the codec, in training mode.
        commitment: The weighted commitment loss. Shape [].
    """
    if report is None:
        return {}
    names, metrics = report.names, {"conflicts": report.conflicts, "balanced_norm": report.norm}
    for prefix, values in (("norm", report.norms), ("share", report.shares), ("projection", report.projections)):
        metrics |= {f"{prefix}/{name}": value for name, value in zip(names, values.unbind(), strict=True)}
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            metrics[f"cosine/{first}/{names[j]}"] = report.cosines[i, j]
    if output.quantized is not None and commitment.requires_grad:
        _add_commitment_ratio(output.latent, output.quantized.latent, commitment, metrics)
    return metrics


@torch.no_grad()
def step_metrics(
    losses: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    num_codebooks: int,
    estimate: Tensor,
    reference: Tensor,
) -> dict[str, Tensor]:
    """Losses and their weights, RMS of a batch and of its reconstruction, and the share of segments that are silent.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalars.
    """
    norms = torch.linalg.vector_norm(reference.flatten(1), dim=1, dtype=torch.float32)
    silence, scale = _SILENCE * reference[0].numel() ** 0.5, estimate.numel() ** -0.5
    return {
        **{f"loss/{name}": loss.detach() for name, loss in losses.items()},
        **{f"weight/{name}": weight for name, weight in weights.items()},
        "num_codebooks": torch.tensor(float(num_codebooks)),
        "rms/reference": torch.linalg.vector_norm(norms) * scale,
        "rms/estimate": torch.linalg.vector_norm(estimate, dtype=torch.float32) * scale,
        "silent_fraction": (norms < silence).float().mean(),
    }


def codebook_metrics(usage: CodebookUsage) -> dict[str, float]:
    """`codebook/<k>/<quantity>` for every codebook and quantity of `usage`."""
    named = usage._asdict().items()
    return {f"codebook/{k}/{name}": value for name, values in named for k, value in enumerate(values.tolist())}


def loss_properties(losses: Mapping[str, nn.Module], adversarial: AdversarialTraining | None) -> dict[str, float]:
    """Constants that every record of training holds, so that diagnostics need no list of losses.

    `may_increase/NAME` is 1 for a loss that rises in healthy training: the adversarial losses, which rise when the
    discriminator improves, and losses with a true attribute `may_increase`. `discriminator/uninformed_loss` is the
    discriminator's loss when it cannot tell real from coded audio.
    """
    names = [name for name, loss in losses.items() if getattr(loss, "may_increase", False)]
    if adversarial is None:
        return {f"may_increase/{name}": 1.0 for name in names}
    properties = {f"may_increase/{name}": 1.0 for name in (*names, *adversarial.loss.names)}
    return properties | {"discriminator/uninformed_loss": adversarial.loss.uninformed_discriminator_loss}


def _add_commitment_ratio(latent: Tensor, quantized: Tensor, commitment: Tensor, metrics: dict[str, Tensor]) -> None:
    """Norm of the commitment gradient over the norm of the balanced gradient, both at the encoder output.

    The straight-through estimator copies the gradient at the decoder input to the encoder output. The commitment loss
    does not depend on the decoder input. A hook on the quantized latent therefore sees the balanced gradient alone, in
    the backward pass of the step. The commitment gradient is cheap, because its graph ends at the latent.

    Shape: latent [B, D, F], quantized [B, D, F], commitment [].
    """
    (commitment_gradient,) = torch.autograd.grad(commitment, latent, retain_graph=True)

    def add_ratio(gradient: Tensor) -> None:
        norms = [torch.linalg.vector_norm(each, dtype=torch.float64) for each in (commitment_gradient, gradient)]
        metrics["commitment_ratio"] = norms[0] / norms[1]

    quantized.register_hook(add_ratio)
