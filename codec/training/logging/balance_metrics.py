"""What a monitoring step adds to the log: the losses against each other, and all of them against the commitment."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancer import GradientReport
from codec.model import CodecOutput
from codec.training.adversarial import AdversarialTraining

__all__ = ["balance_metrics", "level_metrics", "loss_properties"]

_SILENCE = 1e-3  # root mean square, -60 dB: what the sampler takes for silence


def balance_metrics(balance: GradientReport | None, output: CodecOutput, commitment: Tensor) -> dict[str, Tensor]:
    """Metrics of one step, to be asked for before its backward pass, which adds `commitment_ratio` to them.

    Nothing is computed, and the result stays empty, on a step without a report; there is no ratio where nothing was
    quantized. The gradients that train are not touched.

    Args:
        balance: The balancer's report, None between monitoring steps.
        commitment: The weighted commitment loss. Shape [].
    """
    if balance is None:
        return {}
    names, metrics = balance.names, {"conflicts": balance.conflicts, "balanced_norm": balance.norm}
    for prefix, values in (("norm", balance.norms), ("share", balance.shares), ("projection", balance.projections)):
        metrics |= {f"{prefix}/{name}": value for name, value in zip(names, values.unbind(), strict=True)}
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            metrics[f"cosine/{first}/{names[j]}"] = balance.cosines[i, j]
    if output.quantized is not None and commitment.requires_grad:
        _add_commitment_ratio(output.latent, output.quantized.latent, commitment, metrics)
    return metrics


@torch.no_grad()
def level_metrics(estimate: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Root mean squares of a batch before and after, and the share of its segments that are silent.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalars.
    """
    levels = reference.float().square().mean((1, 2)).sqrt()
    return {
        "rms/reference": levels.square().mean().sqrt(),
        "rms/estimate": estimate.square().mean().sqrt(),
        "silent_fraction": (levels < _SILENCE).float().mean(),
    }


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
    """Length of the commitment's gradient over that of the balanced gradient, both at the encoder's output.

    The straight-through estimator hands the encoder's output what arrives at the decoder's input, and the commitment
    does not pass there. So a hook on the quantized latent sees the balanced gradient alone in the backward pass that
    the step makes anyway; the commitment's own graph ends at the latent, and is short.
    """
    (pull,) = torch.autograd.grad(commitment, latent, retain_graph=True)

    def note(gradient: Tensor) -> None:
        lengths = [torch.linalg.vector_norm(each, dtype=torch.float64) for each in (pull, gradient)]
        metrics["commitment_ratio"] = lengths[0] / lengths[1]

    quantized.register_hook(note)
