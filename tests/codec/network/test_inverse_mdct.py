"""A new network at the frame rate is a transform codec: the MDCT's inverse through the inverse STFT."""

import math

import numpy as np
import pytest
import torch

from codec.network import EncoderDecoder, ISTFTNetwork, SEANet
from codec.network.mdct import inverse_mdct_spectra, mdct

HOP = 20


@pytest.mark.parametrize("window_samples", [50, 64, 80])
def test_an_inverse_stft_of_the_spectra_gives_back_the_signal(window_samples: int) -> None:
    """In float64, by an overlap-add in NumPy; all frequencies, without the frames at both ends."""
    frames, window = 12, torch.hann_window(window_samples, dtype=torch.float64)
    signal = np.random.default_rng(0).normal(size=(frames + 1) * HOP)
    coefficients = np.stack([mdct(HOP, HOP).numpy() @ signal[i * HOP : (i + 2) * HOP] for i in range(frames)])
    spectra = coefficients @ inverse_mdct_spectra(HOP, HOP, window).numpy()
    margin = window_samples // 2 - HOP  # of a window beyond the two hops
    total, squares = np.zeros((frames - 1) * HOP + window_samples), np.zeros((frames - 1) * HOP + window_samples)
    for i, frame in enumerate(np.fft.irfft(spectra, window_samples)):
        total[i * HOP : i * HOP + window_samples] += frame * window.numpy()
        squares[i * HOP : i * HOP + window_samples] += window.numpy() ** 2
    inside = slice(4 * HOP, -4 * HOP)
    restored = (total / squares.clip(1e-9))[margin : margin + len(signal)]
    np.testing.assert_allclose(restored[inside], signal[inside], atol=1e-9)


def new_network(**settings: object) -> ISTFTNetwork:
    torch.manual_seed(0)
    return ISTFTNetwork(hop_samples=320, **{"encoder_window_samples": 640, "encoder_width": 400} | settings)  # type: ignore[arg-type]


def snr_db(network: ISTFTNetwork, audio: torch.Tensor) -> float:
    """Of a new codec without quantization, in dB, without the first and last frames."""
    with torch.no_grad():
        restored = network.make_decoder()(network.make_encoder()(audio))
    inside = slice(4 * 320, -4 * 320)
    error = (restored - audio)[..., inside].square().mean()
    return 10 * math.log10(float(audio[..., inside].square().mean() / error))


def band(highest_hz: float, channels: int = 1) -> torch.Tensor:
    """Noise at -20 dBFS of 200 Hz to `highest_hz` at 24 kHz. Shape: -> [1, channels, 9600]."""
    spectrum = torch.fft.rfft(torch.randn(1, channels, 9600, generator=torch.Generator().manual_seed(1)))
    hertz = torch.fft.rfftfreq(9600, 1 / 24000)
    audio = torch.fft.irfft(spectrum * ((hertz > 200) & (hertz < highest_hz)))
    return 0.1 * audio / audio.square().mean().sqrt()


@pytest.mark.parametrize("window_samples", [640, 1024, 1280])
@pytest.mark.parametrize("gain", [0.01, 1.0, 5.0])
def test_a_new_codec_gives_back_the_band_of_its_latent(window_samples: int, gain: float) -> None:
    """96 of 320 coefficients reach to 3.6 kHz. The normalization of the layers costs the rest of the precision."""
    network = new_network(latent_dim=96, decoder_window_samples=window_samples)
    assert snr_db(network, gain * band(3000)) > 18


def test_both_channels() -> None:
    network = new_network(latent_dim=192, channels=2)
    assert snr_db(network, band(3000, channels=2)) > 18


def test_a_narrow_decoder_has_the_lowest_frequencies() -> None:
    assert snr_db(new_network(latent_dim=96, decoder_width=40, decoder_depth=1), band(1000)) > 10
    new_network(latent_dim=8, decoder_width=2, decoder_depth=1).make_decoder()  # too narrow for any


def test_the_blocks_add_nothing_at_first() -> None:
    without = new_network(latent_dim=96, encoder_depth=0, decoder_depth=0)
    audio = band(3000)
    assert snr_db(new_network(latent_dim=96, encoder_depth=3, decoder_depth=3), audio) == pytest.approx(
        snr_db(without, audio), abs=1
    )


def test_after_another_encoder_the_decoder_is_finite() -> None:
    seanet = SEANet(filters=2, strides=[8, 5, 4, 2], latent_dim=16, lstm_layers=0)
    network = EncoderDecoder(encoder=seanet, decoder=new_network(latent_dim=16, decoder_width=32, decoder_depth=1))
    with torch.no_grad():
        audio = network.make_decoder()(network.make_encoder()(band(3000)))
    assert bool(audio.isfinite().all())
    assert float(audio.abs().max()) < 10
