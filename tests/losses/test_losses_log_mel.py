"""DAC's mel loss against torchaudio's mel spectrograms."""

import math
import warnings

import pytest
import torch
import torchaudio
from torch import Tensor

from losses import LogMel

WINDOWS, MELS, RATE = (32, 128, 512), (5, 20, 80), 24_000


def noise(seed: int, scale: float = 0.1) -> Tensor:
    return scale * torch.randn(2, 1, 3000, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_sum_of_log_distances_of_torchaudio() -> None:
    estimate, reference = noise(0), noise(1, 0.02)
    expected = 0.0
    for window, mels in zip(WINDOWS, MELS, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filters without a bin
            mel = torchaudio.transforms.MelSpectrogram(
                RATE, window, hop_length=window // 4, n_mels=mels, power=1.0, norm="slaney", mel_scale="slaney"
            )
        logs = [mel(audio).clamp(1e-5).log10() for audio in (estimate, reference)]
        expected += float((logs[0] - logs[1]).abs().mean())
    assert float(LogMel(RATE, WINDOWS, MELS)(estimate, reference)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("power", [1.0, 2.0], ids=["nemo", "hilcodec"])
def test_the_mean_square_beside_the_distance_gives_the_losses_of_nemo_and_hilcodec(power: float) -> None:
    """Both add L1 and mean square of natural logarithms. HILCodec's are of powers: twice those of magnitudes."""
    estimate, reference = noise(0), noise(1, 0.02)
    expected = 0.0
    for window, mels in zip(WINDOWS, MELS, strict=True):
        filters = LogMel(RATE, [window], [mels]).resolutions[0].filters.double()
        hann = torch.hann_window(window, dtype=torch.float64)
        logs = []
        for audio in (estimate, reference):
            spectrum = torch.stft(audio[:, 0].double(), window, window // 4, window=hann, return_complex=True)
            logs.append(power * (spectrum.abs().mT @ filters).clamp_min(1e-9).log())
        difference = logs[0] - logs[1]
        expected += float(difference.abs().mean() + difference.square().mean())
    unit = power * math.log(10)  # of these logarithms, in those of base 10 of magnitudes
    found = LogMel(RATE, WINDOWS, MELS, floor=1e-9, square_weight=unit)(estimate, reference)
    assert unit * float(found) == pytest.approx(expected, rel=1e-4)


def test_worked_numbers() -> None:
    """A tenth of the amplitude is 1 in the logarithm of every filter with a bin, at every window."""
    loss, reference = LogMel(RATE, [512], [40], floor=1e-12), noise(1)
    assert float(loss(0.1 * reference, reference)) == pytest.approx(1, abs=1e-4)
    assert float(loss(reference, reference)) == 0


@pytest.mark.parametrize("estimate", [torch.zeros(2, 1, 3000), noise(0)], ids=["silence", "noise"])
def test_gradients_are_finite(estimate: Tensor) -> None:
    estimate = estimate.clone().requires_grad_()
    loss = LogMel(RATE)
    assert loss.minimum_samples == 1025
    loss(estimate, noise(1)).backward()
    assert estimate.grad is not None
    assert estimate.grad.isfinite().all()


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="a number of mels for each"):
        LogMel(RATE, [32, 64], [5])
    with pytest.raises(ValueError, match="multiples of 4"):
        LogMel(RATE, [30], [5])
    with pytest.raises(ValueError, match="square_weight >= 0, got -1"):
        LogMel(RATE, square_weight=-1)
