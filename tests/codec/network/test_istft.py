"""The network at the frame rate: its transforms against NumPy, lengths, look-ahead, streams, files, precision."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from codec import Codec
from codec.model_file import fingerprint, load_model, save_model
from codec.network import ISTFTNetwork
from codec.network.istft_layers import ISTFTOutput, SpectralInput
from codec.network.stream import Chain, receptive_field
from codec.quantization import ResidualVectorQuantizer
from codec.streaming import StreamingDecoder, StreamingEncoder

HOP = 20
TINY: dict[str, Any] = {
    "hop_samples": HOP,
    "latent_dim": 8,
    "encoder_window_samples": 80,
    "encoder_width": 12,
    "encoder_depth": 2,
    "decoder_window_samples": 80,
    "decoder_width": 12,
    "decoder_depth": 2,
    "decoder_look_ahead": 2,
    "kernel_size": 3,
}
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "no_look_ahead": {"decoder_look_ahead": 0},
    "much_look_ahead": {"encoder_look_ahead": 3, "decoder_look_ahead": 6},
    "short_windows": {"encoder_window_samples": 40, "decoder_window_samples": 60},
    "stereo": {"channels": 2, "kernel_size": 4},
    "no_blocks": {"encoder_depth": 0, "decoder_depth": 0, "kernel_size": 1, "decoder_look_ahead": 0},
}


def network(kind: str) -> ISTFTNetwork:
    return ISTFTNetwork(**TINY | KINDS[kind])


def modules(kind: str) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder in float64, with weights that are larger than those of a new network."""
    torch.manual_seed(1)
    made = network(kind).make_encoder().double(), network(kind).make_decoder().double()
    with torch.no_grad():
        for module in made:
            for parameter in module.parameters():
                parameter.mul_(10 if parameter.dim() > 1 else 1)
    return made


def codec_of(kind: str) -> Codec:
    """With codes from latents of noise."""
    quantizer = ResidualVectorQuantizer(latent_dim=8, num_codebooks=4, codebook_size=16, kmeans_iterations=5)
    codec = Codec(network(kind), quantizer, sample_rate=800).eval()
    encoder, decoder = modules(kind)
    codec.encoder.load_state_dict(encoder.state_dict())
    codec.decoder.load_state_dict(decoder.state_dict())
    with torch.no_grad():
        codec.quantizer.initialize(codec.encoder(noise(4000, codec.config.channels))[0].t())
    return codec


def noise(samples: int, channels: int = 1, batch: int = 1) -> Tensor:
    return 0.1 * torch.randn(batch, channels, samples, generator=torch.Generator().manual_seed(samples))


def pieces(x: Tensor, sizes: list[int]) -> list[Tensor]:
    cuts = [0]
    for size in sizes:
        cuts.append(min(cuts[-1] + size, x.shape[-1]))
    return [x[..., a:b] for a, b in pairwise([*cuts, x.shape[-1]])]


def streamed(layers: nn.Module, x: Tensor, sizes: list[int]) -> Tensor:
    chain = Chain(layers)
    return torch.cat([*(chain.push(piece, False) for piece in pieces(x, sizes)), chain.push(x[..., :0], True)], -1)


# The transforms


def test_the_spectral_input_computes_the_features_of_numpy() -> None:
    layer = SpectralInput(2, 5, 80, HOP).double()
    nn.init.normal_(layer.linear.weight)
    audio = noise(70, channels=2).double()
    samples = np.pad(audio[0].numpy(), ((0, 0), (30, 30 + 10)))  # half of what a window exceeds a hop by; a whole frame
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(80) / 80)
    for frame in range(4):
        windowed = samples[:, frame * HOP : frame * HOP + 80] * hann / np.sqrt((hann**2).sum())
        spectrum = np.fft.rfft(windowed)
        magnitude = np.sqrt(np.abs(spectrum) ** 2 + 1e-6)
        turned = spectrum / magnitude**0.7
        features = np.stack([(np.log(magnitude) + 3.5) / 2, turned.real, turned.imag], -1).flatten()
        mapped = layer.linear.weight.detach().numpy() @ features + layer.linear.bias.detach().numpy()
        expected = (mapped - mapped.mean()) / np.sqrt(mapped.var() + 1e-5)
        np.testing.assert_allclose(layer(audio)[0, :, frame].detach().numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("window", [40, 60, 80, 100])
def test_the_inverse_transform_of_a_signals_spectrum_is_the_signal(window: int) -> None:
    """Frames of NumPy's spectrum of a signal, windowed, give back the signal, its first and last samples included."""
    layer, frames = ISTFTOutput(1, 3, window, HOP).double(), 7
    around = (window - HOP) // 2
    signal = np.random.default_rng(0).normal(size=frames * HOP)
    padded = np.pad(signal, around)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    spectrum = np.stack([np.fft.rfft(padded[i * HOP : i * HOP + window] * hann) for i in range(frames)])
    mapped = torch.from_numpy(np.concatenate([np.log(np.abs(spectrum) + 1e-300), np.angle(spectrum)], -1))
    layer.linear.register_forward_hook(lambda *_: mapped[None])
    audio = layer(torch.zeros(1, 3, frames, dtype=torch.float64))
    np.testing.assert_allclose(audio[0, 0].detach().numpy(), signal, atol=2e-6)  # the window is float32


def test_magnitudes_are_bounded() -> None:
    layer = ISTFTOutput(1, 3, 80, HOP)
    nn.init.constant_(layer.linear.bias, 1e4)
    assert layer(torch.zeros(1, 3, 5)).isfinite().all()


# Lengths and look-ahead


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_lengths(kind: str) -> None:
    encoder, decoder = modules(kind)
    for samples in (1, HOP - 1, HOP, HOP + 1, 5 * HOP, 5 * HOP + 3):
        latent = encoder(noise(samples, network(kind).channels, batch=2).double())
        assert latent.shape == (2, 8, -(-samples // HOP))
        assert decoder(latent).shape == (2, network(kind).channels, latent.shape[-1] * HOP)


@pytest.mark.parametrize("kind", KINDS)
def test_look_ahead_and_receptive_field_are_the_reach_of_the_gradient(kind: str) -> None:
    net = network(kind)
    encoder, decoder = modules(kind)
    past = int(receptive_field(list(decoder.layers)))
    frame, count = past + 2, past + 20
    latent = torch.randn(1, 8, count, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(decoder(latent)[..., frame * HOP].sum(), latent)
    reached = gradient.abs().sum((0, 1)).nonzero().flatten()
    assert frame - past <= int(reached.min()) <= frame - past + 1  # the formula rounds up to whole frames
    audio = noise(40 * HOP, net.channels).double().requires_grad_()
    output = decoder(encoder(audio))[..., 20 * HOP : 21 * HOP]
    # Not the sum: gradients of several samples could cancel.
    slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(output, audio, slope)
    last = int(gradient.abs().sum((0, 1)).nonzero().max())
    # A Hann window begins with a zero.
    assert 21 * HOP + net.look_ahead_samples - 2 <= last <= 21 * HOP + net.look_ahead_samples - 1


# Streams


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(samples=st.integers(1, 300), sizes=st.lists(st.sampled_from([0, 1, 2, 3, 7, 20, 33, 150]), max_size=12))
@torch.no_grad()
def test_streams_equal_the_whole(kind: str, samples: int, sizes: list[int]) -> None:
    encoder, decoder = modules(kind)
    audio = noise(samples, network(kind).channels, batch=2).double()
    latent = encoder(audio)
    torch.testing.assert_close(streamed(encoder.layers, audio, sizes), latent, rtol=0, atol=1e-12)
    torch.testing.assert_close(streamed(decoder.layers, latent, sizes), decoder(latent), rtol=0, atol=1e-12)


@torch.no_grad()
def test_an_empty_stream_returns_nothing() -> None:
    encoder, decoder = modules("default")
    empty = torch.zeros(1, 1, 0, dtype=torch.float64)
    assert streamed(encoder.layers, empty, []).shape == (1, 8, 0)
    assert streamed(decoder.layers, torch.zeros(1, 8, 0, dtype=torch.float64), []).shape == (1, 1, 0)


@torch.no_grad()
def test_a_live_stream_is_late_by_a_frame_and_the_look_ahead() -> None:
    codec = codec_of("default")
    encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
    returned = 0
    for frame in range(30):
        returned += decoder.push(encoder.push(noise(HOP))).shape[-1]
        pushed = (frame + 1) * HOP
        late = pushed - returned
        assert late >= min(pushed, ISTFTNetwork(**TINY).look_ahead_samples)
    assert late < ISTFTNetwork(**TINY).look_ahead_samples + HOP
    returned += decoder.push(encoder.flush()).shape[-1] + decoder.flush().shape[-1]
    assert returned == 30 * HOP


@torch.no_grad()
def test_a_stream_that_starts_in_the_middle_is_exact_after_its_warm_up() -> None:
    codec = codec_of("much_look_ahead").double()
    codes = codec.quantizer.encode(codec.encoder(noise(60 * HOP).double()))
    whole = codec.decoder(codec.quantizer.decode(codes))
    stream, start = StreamingDecoder(codec), 17
    assert not stream.needs_all_frames
    late = torch.cat([stream.push(codes[..., start:]), stream.flush()], -1)
    warm_up = stream.warm_up_frames * HOP
    torch.testing.assert_close(late[..., warm_up:], whole[..., start * HOP + warm_up :], rtol=0, atol=1e-12)
    assert (late[..., : warm_up - HOP] - whole[..., start * HOP : start * HOP + warm_up - HOP]).abs().max() > 1e-6


# Training and files


@pytest.mark.parametrize(
    "audio", [torch.zeros(1, 1, 333), noise(333), 1e3 * noise(333)], ids=["silence", "noise", "loud"]
)
def test_gradients_are_finite(audio: Tensor) -> None:
    encoder, decoder = network("default").make_encoder(), network("default").make_decoder()
    decoder(encoder(audio)).square().sum().backward()
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_under_bfloat16_the_transforms_stay_in_float32() -> None:
    encoder, decoder = network("stereo").make_encoder(), network("stereo").make_decoder()
    audio = noise(333, channels=2)
    expected = decoder(encoder(audio))
    with torch.autocast("cpu", torch.bfloat16):
        audio = decoder(encoder(audio))
    assert audio.dtype == torch.float32
    error = (audio - expected).detach().norm() / expected.detach().norm()
    assert float(error) < 0.05  # 8 significant bits in six layers


def test_named_layers() -> None:
    encoder, decoder = network("default").make_encoder(), network("default").make_decoder()
    assert isinstance(encoder.input_layer, SpectralInput)
    assert decoder.output_layer.out_features == 82


def test_a_model_file_makes_the_same_codec(tmp_path: Path) -> None:
    codec = codec_of("stereo")
    save_model(codec, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == codec.config
    assert loaded.config.network == {"name": "ISTFTNetwork"} | network("stereo").settings()
    assert fingerprint(loaded) == fingerprint(codec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hop_samples": 21}, "hop_samples must be even, got 21"),
        ({"channels": 3}, "channels must be 1 or 2, got 3"),
        ({"latent_dim": 0}, "latent_dim must be a whole number of at least 1, got 0"),
        ({"decoder_depth": 1.5}, "decoder_depth must be a whole number of at least 0, got 1.5"),
        ({"encoder_window_samples": 38}, "encoder_window_samples .* at least two hops, 40, got 38"),
        ({"decoder_window_samples": 81}, "decoder_window_samples .* at least two hops, 40, got 81"),
        ({"encoder_look_ahead": 5}, "encoder_look_ahead .* at most 4 frames with 2 convolutions of kernel 3, got 5"),
        ({"decoder_look_ahead": 7}, "decoder_look_ahead .* at most 6 frames with 3 convolutions of kernel 3, got 7"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ISTFTNetwork(**TINY | changes)
