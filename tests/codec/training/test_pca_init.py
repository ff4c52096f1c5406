"""A codec with PCA initialization reconstructs waveforms without a training step."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from codec import Codec, CodecConfig
from codec.model_file import make_codec
from codec.training.startup.pca_init import pca_init_
from codec_inputs import seanet_config

BASE: dict[str, Any] = {
    "filters": 4,
    "strides": [4, 2],
    "latent_dim": 8,
    "lstm_layers": 0,
    "num_codebooks": 2,
    "codebook_size": 16,
    "bandwidths_kbps": [24.0],
}
MONO = seanet_config(**BASE)
VARIANTS = {
    "mono": MONO,
    "rectifiers": seanet_config(**BASE | {"activation": "relu"}),
    "stereo": seanet_config(**BASE | {"channels": 2, "latent_dim": 16}),
    "not causal": seanet_config(**BASE | {"causal": False}),
    "reflection": seanet_config(**BASE | {"causal": False, "padding": "reflect"}),
    "no norm": seanet_config(**BASE | {"norm": "none"}),
    "LSTM": seanet_config(**BASE | {"lstm_layers": 2}),
    "convolutional skip": seanet_config(**BASE | {"skip": "conv", "residual_layers": 2}),
    "odd stride": seanet_config(
        **BASE | {"strides": [5, 3], "filters": 16, "latent_dim": 15, "bandwidths_kbps": [12.0]}
    ),
}


def low_passed(config: CodecConfig, batch: int, frames: int, seed: int) -> Tensor:
    """Noise with most of its power in the lower quarter of the band, as recordings have."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft(torch.randn(batch, config.channels, frames * config.hop_samples, generator=generator))
    frequency = torch.linspace(0, 1, spectrum.shape[-1])
    return 0.1 * torch.fft.irfft(spectrum / (1 + (8 * frequency) ** 4))


def error_db(estimate: Tensor, reference: Tensor) -> float:
    return 10 * math.log10(float((estimate - reference).square().mean() / reference.square().mean()))


def started(config: CodecConfig) -> tuple[Codec, Tensor]:
    torch.manual_seed(0)
    codec = make_codec(config.to_dict())
    pca_init_(codec, low_passed(config, 64, 64, seed=1))
    return codec, low_passed(config, 8, 64, seed=2)


@pytest.mark.parametrize("name", VARIANTS)
def test_unquantized_audio_is_reconstructed(name: str) -> None:
    codec, audio = started(VARIANTS[name])
    with torch.no_grad():
        before = make_codec(VARIANTS[name].to_dict())(audio, quantize=False).audio
        after = codec(audio, quantize=False).audio
    assert error_db(before, audio) > -1
    assert error_db(after, audio) < -25


@torch.no_grad()
def test_rectifiers_reconstruct_quiet_and_loud_audio() -> None:
    """Without an added constant, audio 50 dB below the training audio is reconstructed as well."""
    codec, audio = started(VARIANTS["rectifiers"])
    quiet = audio * 10 ** (-50 / 20)
    assert error_db(codec(audio, quantize=False).audio, audio) < -35
    assert error_db(codec(quiet, quantize=False).audio, quiet) < -30
    assert codec(0 * audio, quantize=False).audio.abs().max() < 1e-6
    with_constants, _ = started(MONO)
    assert error_db(with_constants(10 * audio, quantize=False).audio, 10 * audio) > -10  # beyond c
    assert error_db(codec(10 * audio, quantize=False).audio, 10 * audio) < -35


@torch.no_grad()
def test_latents_are_the_principal_components_of_frames() -> None:
    """Compared with NumPy's eigenvalues, for components that no layer drops; scaled by the noise shaping."""
    codec, _ = started(MONO)
    audio = low_passed(MONO, 64, 64, seed=1)
    frames = audio.double().numpy().reshape(-1, MONO.hop_samples)
    deviations = np.sqrt(np.sort(np.linalg.eigvalsh(frames.T @ frames / len(frames)))[::-1]) / frames.std()
    expected = deviations * (deviations / deviations[0]) ** -0.7
    latent = codec.encode_latent(audio).double()
    np.testing.assert_allclose(latent.square().mean((0, 2)).sqrt().numpy()[:4], expected[:4], rtol=0.01)
    correlation = torch.corrcoef(latent.transpose(0, 1).flatten(1)).numpy()
    assert np.abs(correlation - np.eye(len(correlation)))[:4, :4].max() < 0.05


@torch.no_grad()
def test_noise_in_the_latent_is_shaped_like_the_signal() -> None:
    """Equal noise on all latents is decoded mostly to the low band, where this signal has its power."""
    codec, audio = started(MONO)
    latent = codec.encode_latent(audio)
    noise = 0.1 * torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    difference = codec.decoder(latent + noise) - codec.decoder(latent)
    power = torch.fft.rfft(difference).abs().square().mean((0, 1))
    quarter = len(power) // 4
    assert power[:quarter].mean() > 10 * power[-quarter:].mean()


def test_every_weight_gets_a_gradient() -> None:
    """Within three steps: a weight without a gradient gets one when its neighbour is no longer zero."""
    codec, audio = started(VARIANTS["LSTM"])
    optimizer = torch.optim.SGD(codec.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        (codec(audio, quantize=False).audio - audio).square().mean().backward()
        optimizer.step()
    still = [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still


def test_the_same_audio_gives_the_same_weights() -> None:
    first, second = started(MONO)[0].state_dict(), started(MONO)[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("config", "audio", "message"),
    [
        (
            seanet_config(**BASE | {"norm": "time_group_norm", "causal": False}),
            torch.randn(1, 1, 64),
            "set trainer.init=random",
        ),
        (seanet_config(**BASE | {"activation": "snake"}), torch.randn(1, 1, 64), "relu and elu, got snake"),
        (seanet_config(**BASE | {"channels": 2, "filters": 2}), torch.randn(1, 2, 64), "at least 4 filters, got 2"),
        (MONO, torch.zeros(1, 1, 64), "not silent"),
        (MONO, torch.randn(1, 1, 7), "at least 8 samples"),
    ],
)
def test_unsuitable_codecs_and_audio_are_refused(config: CodecConfig, audio: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pca_init_(make_codec(config.to_dict()), audio)
