"""Distances between two waveforms, sample by sample.

Every function and module takes (estimate, reference) and falls as the estimate gets better.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shapes import check_audio, check_pair
from .stft import wide, without_autocast

__all__ = ["L1", "L2", "SISDR", "si_sdr"]


class L1(nn.Module):
    """Mean absolute difference, the time loss of EnCodec (Défossez et al. 2022, section 3.4).

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar.
    """

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference)
        with without_autocast(estimate):
            return F.l1_loss(wide(estimate), wide(reference))

    @torch.no_grad()
    def constant_baseline(self, reference: Tensor) -> Tensor:
        """The loss of the best constant prediction, the median over the batch.

        Shape: reference [B, C, T] -> scalar.
        """
        check_audio(reference)
        reference = wide(reference)
        return (reference - reference.median()).abs().mean()


class L2(nn.Module):
    """Mean squared difference.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar.
    """

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference)
        with without_autocast(estimate):
            return F.mse_loss(wide(estimate), wide(reference))

    @torch.no_grad()
    def constant_baseline(self, reference: Tensor) -> Tensor:
        """The loss of the best constant prediction, the mean over the batch: the variance.

        Shape: reference [B, C, T] -> scalar.
        """
        check_audio(reference)
        return wide(reference).var(correction=0)


class SISDR(nn.Module):
    """Negative scale-invariant signal-to-distortion ratio in dB, mean over batch and channels; see `si_sdr`.

    Args:
        zero_mean: Take each signal's mean away first.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar.
    """

    def __init__(self, zero_mean: bool = False) -> None:
        super().__init__()
        self.zero_mean = zero_mean

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        return -si_sdr(estimate, reference, self.zero_mean).mean()


def si_sdr(estimate: Tensor, reference: Tensor, zero_mean: bool = False) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), higher is better.

    The reference is scaled by a = <e, r> / <r, r>, so that a·r is the part of the estimate that the reference
    explains; the ratio is |a·r|² / |a·r - e|². Le Roux et al. leave the mean in ("SI-SDR"); papers that report
    "SI-SNR" take it out (`zero_mean=True`). The machine epsilon added to each sum is torchmetrics' choice, hence
    equal values: silence against silence is 0 dB, and so is a silent estimate of anything, with finite gradients.

    Args:
        estimate: Audio that came out of the codec.
        reference: Audio that went in.
        zero_mean: Take each signal's mean away first.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B], the mean over channels.
    """
    check_pair(estimate, reference)
    with without_autocast(estimate):
        estimate, reference = wide(estimate), wide(reference)
        if zero_mean:
            estimate = estimate - estimate.mean(dim=-1, keepdim=True)
            reference = reference - reference.mean(dim=-1, keepdim=True)
        epsilon = torch.finfo(estimate.dtype).eps
        overlap = (estimate * reference).sum(dim=-1, keepdim=True)
        scale = (overlap + epsilon) / (reference.square().sum(dim=-1, keepdim=True) + epsilon)
        explained = scale * reference
        signal = explained.square().sum(dim=-1) + epsilon
        distortion = (explained - estimate).square().sum(dim=-1) + epsilon
        return 10 * torch.log10(signal / distortion).mean(dim=-1)
