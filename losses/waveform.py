"""Distances between two waveforms, sample by sample."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.inputs import at_least_float32, check_audio, check_pair, without_autocast

__all__ = ["L1", "L2", "SISDR", "si_sdr"]


class L1(nn.Module):
    """Mean absolute difference, the time-domain loss of EnCodec (Défossez et al. 2022, section 3.4).

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar.
    """

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference)
        with without_autocast(estimate):
            return F.l1_loss(at_least_float32(estimate), at_least_float32(reference))

    @torch.no_grad()
    def constant_baseline(self, reference: Tensor) -> Tensor:
        """Loss of the best constant prediction, the median over the batch.

        Shape: reference [B, C, T] -> scalar.
        """
        check_audio(reference)
        reference = at_least_float32(reference)
        return (reference - reference.median()).abs().mean()


class L2(nn.Module):
    """Mean squared difference.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar.
    """

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference)
        with without_autocast(estimate):
            return F.mse_loss(at_least_float32(estimate), at_least_float32(reference))

    @torch.no_grad()
    def constant_baseline(self, reference: Tensor) -> Tensor:
        """Loss of the best constant prediction, the mean over the batch. It is the variance of the reference.

        Shape: reference [B, C, T] -> scalar.
        """
        check_audio(reference)
        return at_least_float32(reference).var(correction=0)


class SISDR(nn.Module):
    """Negative scale-invariant signal-to-distortion ratio in dB, mean over batch and channels; see `si_sdr`.

    Args:
        zero_mean: Subtract the mean of each signal first.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar.
    """

    def __init__(self, zero_mean: bool = False) -> None:
        super().__init__()
        self.zero_mean = zero_mean

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        return -si_sdr(estimate, reference, self.zero_mean).mean()


def si_sdr(estimate: Tensor, reference: Tensor, zero_mean: bool = False) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019); higher is better.

    With the gain a = <e, r> / <r, r>, the part a·r of the estimate e is explained by the reference r. The ratio is
    |a·r|² / |a·r - e|². Le Roux et al. keep the mean ("SI-SDR"); papers that report "SI-SNR" subtract it
    (`zero_mean=True`). As in torchmetrics, the machine epsilon is added to each sum. Silence against silence is then
    0 dB, a silent estimate of any reference is 0 dB, and gradients are finite.

    Args:
        estimate: Output of the codec.
        reference: Input of the codec.
        zero_mean: Subtract the mean of each signal first.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B], the mean over channels.

    Raises:
        ValueError: The shapes differ or are not [B, C, T].
    """
    check_pair(estimate, reference)
    with without_autocast(estimate):
        estimate, reference = at_least_float32(estimate), at_least_float32(reference)
        if zero_mean:
            estimate = estimate - estimate.mean(dim=-1, keepdim=True)
            reference = reference - reference.mean(dim=-1, keepdim=True)
        epsilon = torch.finfo(estimate.dtype).eps
        overlap = (estimate * reference).sum(dim=-1, keepdim=True)
        gain = (overlap + epsilon) / (reference.square().sum(dim=-1, keepdim=True) + epsilon)
        explained = gain * reference
        signal = explained.square().sum(dim=-1) + epsilon
        distortion = (explained - estimate).square().sum(dim=-1) + epsilon
        return 10 * torch.log10(signal / distortion).mean(dim=-1)
