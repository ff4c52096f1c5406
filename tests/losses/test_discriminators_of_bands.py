"""Discriminators on bands of the spectrum: DAC's against torch.stft, HILCodec's against SciPy."""

import numpy as np
import pytest
import torch
from scipy.signal import firwin
from torch import Tensor
from torch.nn import functional as F

from losses import (
    CombinedDiscriminator,
    MultiBandSTFTDiscriminator,
    MultiFilterBankDiscriminator,
    MultiPeriodDiscriminator,
)
from losses.discriminators.multi_filter_bank import FilterBank

CUTOFFS = {2: 0.253881, 3: 0.170546, 5: 0.103881, 7: 0.075310, 11: 0.049338}  # HILCodec's


def noise(samples: int, batch: int = 2, channels: int = 1) -> Tensor:
    return 0.2 * torch.randn(batch, channels, samples, generator=torch.Generator().manual_seed(samples))


# DAC


@torch.no_grad()
def test_the_multi_band_discriminator_computes_what_dac_states() -> None:
    """The steps of DAC's code for one window, with torch.stft and the same weights."""
    torch.manual_seed(0)
    window, hop = 64, 16
    discriminator = MultiBandSTFTDiscriminator(filters=3, windows=[window]).double()
    audio = noise(150).double()
    x = audio[:, 0] - audio[:, 0].mean(-1, keepdim=True)
    x = 0.8 * x / (x.abs().amax(-1, keepdim=True) + 1e-9)
    x = F.pad(x, (24, 24 + 160 - 150), "reflect")
    spectrum = torch.stft(x, window, hop, window=torch.hann_window(window).double(), center=False, return_complex=True)
    image = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # [B, 2, F, bins]
    assert image.shape[2] == 10
    (network,) = discriminator.sub_discriminators
    edges = [int(edge * 33) for edge in (0, 0.1, 0.25, 0.5, 0.75, 1)]
    features, ends = [], []
    for convs, low, high in zip(network.bands, edges, edges[1:], strict=False):
        y = image[..., low:high]
        for conv in convs:
            y = F.leaky_relu(F.conv2d(y, conv.weight, conv.bias, conv.stride, conv.padding), 0.1)
            features.append(y)
        ends.append(y)
    output = network.output
    logits = F.conv2d(torch.cat(ends, -1), output.weight, output.bias, padding=output.padding)
    found = discriminator(audio)
    torch.testing.assert_close(found.logits, [logits], rtol=1e-4, atol=1e-6)  # the window is float32
    torch.testing.assert_close(found.features, [features], rtol=1e-4, atol=1e-6)  # DAC's loss leaves out the logits
    assert [conv.kernel_size for conv in network.bands[0]] == [(3, 9)] * 4 + [(3, 3)]
    assert [conv.stride for conv in network.bands[0]] == [(1, 1)] + [(1, 2)] * 3 + [(1, 1)]


@torch.no_grad()
def test_level_and_offset_do_not_matter_to_dac() -> None:
    discriminator = MultiBandSTFTDiscriminator(filters=2, windows=[64])
    audio = noise(300)
    torch.testing.assert_close(
        discriminator(0.01 * audio + 0.3).logits, discriminator(audio).logits, rtol=1e-3, atol=1e-4
    )


@torch.no_grad()
def test_all_of_dacs_discriminators_get_audio_without_mean_and_with_one_peak() -> None:
    """DAC's `Discriminator.preprocess`, before the period networks, too."""
    parts = [MultiPeriodDiscriminator([2, 3], [4, 4]), MultiBandSTFTDiscriminator(filters=2, windows=[64])]
    audio = 0.01 * noise(300) + 0.1
    prepared = audio - audio.mean(-1, keepdim=True)
    prepared = 0.8 * prepared / prepared.abs().max(-1, keepdim=True)[0]
    found = CombinedDiscriminator(parts, peak=0.8)(audio)
    torch.testing.assert_close(found.logits[:2], parts[0](prepared).logits)
    torch.testing.assert_close(found.logits[2:], parts[1](audio).logits, rtol=1e-4, atol=1e-5)
    plain = CombinedDiscriminator(parts)(audio)
    torch.testing.assert_close(plain.logits[:2], parts[0](audio).logits)
    with pytest.raises(ValueError, match="a peak above 0, got 0"):
        CombinedDiscriminator(parts, peak=0.0)


def test_bands_of_the_published_windows() -> None:
    discriminator = MultiBandSTFTDiscriminator()
    assert [network.edges for network in discriminator.sub_discriminators] == [
        [0, 102, 256, 512, 768, 1025], [0, 51, 128, 256, 384, 513], [0, 25, 64, 128, 192, 257],
    ]  # fmt: skip
    assert discriminator.minimum_samples == 768 + 512


# HILCodec


@pytest.mark.parametrize(("bands", "cutoff"), CUTOFFS.items())
def test_a_filter_bank_is_that_of_scipy_and_restores_the_signal(bands: int, cutoff: float) -> None:
    bank, taps = FilterBank(bands, cutoff, 256), 256
    n, k = np.arange(taps + 1), np.arange(bands)[:, None]
    prototype = firwin(taps + 1, cutoff, window=("kaiser", 8.0), scale=False)
    phase = (2 * k + 1) * np.pi / (2 * bands) * (n - taps / 2) + (-1.0) ** k * np.pi / 4
    np.testing.assert_allclose(bank.filters[:, 0].numpy(), 2 * np.sqrt(bands) * prototype * np.cos(phase), atol=1e-6)
    signal = noise(300 * bands)[:, 0]
    split = bank(signal)
    assert split.shape == (2, bands, 300)
    restored = F.conv_transpose1d(split, bank.filters, stride=bands, padding=taps // 2, output_padding=bands - 1)[:, 0]
    middle = slice(len(signal[0]) // 2 - 200, len(signal[0]) // 2 + 200)
    error = (restored - signal)[:, middle]  # far from the ends
    assert float(error.square().mean() / signal.square().mean()) < 1e-4


@torch.no_grad()
def test_a_tone_is_in_its_band() -> None:
    bank, time = FilterBank(5, CUTOFFS[5], 256), torch.arange(4000)
    for band in range(5):
        tone = (torch.pi * (band + 0.5) / 5 * time).sin()[None]
        power = bank(tone)[0, :, 100:-100].square().mean(1)
        assert float(power[band] / power.sum()) > 0.999


@pytest.mark.parametrize("channels", [1, 2])
def test_shapes_and_gradients_of_the_filter_banks(channels: int) -> None:
    discriminator = MultiFilterBankDiscriminator(channels=[4, 6, 8])
    audio = noise(331, channels=channels).requires_grad_()
    output = discriminator(audio)
    for bands, logits, features in zip((1, 2, 3, 5, 7, 11), output.logits, output.features, strict=True):
        frames = -(-331 // bands)
        for _ in range(2):
            frames = -(-frames // 3)
        assert logits.shape == (2 * channels, 1, bands, frames)
        assert [feature.shape[1] for feature in features] == [4, 6, 8, 1]
        assert features[-1] is logits
    sum(logits.square().sum() for logits in output.logits).backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in discriminator.parameters())


@pytest.mark.parametrize("kind", [MultiBandSTFTDiscriminator, MultiFilterBankDiscriminator])
def test_silence_has_finite_gradients(kind: type) -> None:
    discriminator = kind(filters=2, windows=[64]) if kind is MultiBandSTFTDiscriminator else kind(channels=[2, 2])
    audio = torch.zeros(1, 1, 200, requires_grad=True)
    sum(logits.sum() for logits in discriminator(audio).logits).backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiBandSTFTDiscriminator(windows=[62]), "multiples of 4 samples"),
        (lambda: MultiBandSTFTDiscriminator(bands=[0.1, 1.0]), "rise from 0 to 1"),
        (lambda: MultiBandSTFTDiscriminator(windows=[16]), "a window of 16 samples is too short"),
        (lambda: MultiFilterBankDiscriminator(bands=[2]), "a cutoff for each"),
        (lambda: MultiFilterBankDiscriminator(bands=[2], cutoffs=[0.0]), "cutoff between 0 and 1 for 2 bands, got 0.0"),
        (lambda: MultiFilterBankDiscriminator(taps=5), "taps to be an even number, got 5"),
    ],
)
def test_settings_out_of_range_are_named(make: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
