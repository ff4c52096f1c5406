"""Losses that compare with another, frozen codec: the distillation of a trained codec into a new one.

The teacher is no part of the run's state: a resumed run loads it again.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.model import Codec
from codec.models import load
from losses import Loss, minimum_samples, segment_samples

__all__ = ["TeacherLatent", "TeacherOutput"]


class TeacherOutput(nn.Module):
    """Distance of the estimate to what the teacher makes of the reference (Hinton et al. 2015, for regression).

    Args:
        teacher: Name of a bundled model, a run's folder, a model file, or a checkpoint (.pt); see `codec.load`.
        sample_rate: Of the codec that is trained, in Hz.
        distance: Loss of (estimate, output of the teacher).
        bandwidth_kbps: Bitrate of the teacher in kbit/s. None: its highest.

    Attributes:
        minimum_samples, window_samples: Those of `distance`.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar.

    Raises:
        ModelFileError: There is no such teacher, or it is corrupt.
        ValueError: It has another sampling rate, or does not reach the bitrate.
    """

    def __init__(self, teacher: str, sample_rate: int, distance: Loss, bandwidth_kbps: float | None = None) -> None:
        super().__init__()
        self.teacher = _load_frozen(teacher, sample_rate)
        self.num_codebooks = self.teacher.config.codebooks_for(bandwidth_kbps)
        self.distance = distance
        self.minimum_samples = minimum_samples(distance)
        self.window_samples = segment_samples(distance)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.teacher(reference, self.num_codebooks).audio
        return self.distance(estimate, target)


class TeacherLatent(nn.Module):
    """Mean absolute difference of the teacher's latents of estimate and reference, relative to those of the reference.

    The latents are features that were learned for coding; Larsen et al. 2016 take those of a discriminator.

    Args:
        teacher, sample_rate: As in `TeacherOutput`.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar.

    Raises:
        ModelFileError: There is no such teacher, or it is corrupt.
        ValueError: It has another sampling rate.
    """

    def __init__(self, teacher: str, sample_rate: int) -> None:
        super().__init__()
        self.teacher = _load_frozen(teacher, sample_rate)
        self.teacher.encoder.train()  # cuDNN computes gradients through an LSTM in this mode alone; no layer drops out

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.teacher.encode_latent(reference)
        # The smallest normal number keeps the loss finite if the latents are zero.
        level = target.abs().mean().clamp_min(torch.finfo(target.dtype).tiny)
        return F.l1_loss(self.teacher.encode_latent(estimate), target) / level


def _load_frozen(teacher: str, sample_rate: int) -> Codec:
    codec = load(teacher)
    if codec.config.sample_rate != sample_rate:
        raise ValueError(
            f"the teacher {teacher} codes audio at {codec.config.sample_rate} Hz, expected the {sample_rate} Hz of "
            "codec.sample_rate: choose another teacher"
        )
    return codec.requires_grad_(False)
