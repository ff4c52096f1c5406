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
from codec.network.frame_layers import FrameInput
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
    "much_look_ahead": {"encoder_look_ahead": 2, "decoder_look_ahead": 3},
    "short_windows": {"encoder_window_samples": 40, "decoder_window_samples": 60},
    "stereo": {"channels": 2, "kernel_size": 4},
    "no_blocks": {"encoder_depth": 0, "decoder_depth": 0, "kernel_size": 1, "decoder_look_ahead": 0},
    "noise": {"decoder_noise_channels": 3},
}


def network(kind: str) -> ISTFTNetwork:
    return ISTFTNetwork(**TINY | KINDS[kind])


def modules(kind: str) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder in float64, with weights that are larger than those of a new network."""
    torch.manual_seed(1)
    made = network(kind).make_encoder().double().eval(), network(kind).make_decoder().double().eval()
    with torch.no_grad():
        for module in made:
            for parameter in module.parameters():
                parameter.mul_(10 if parameter.dim() > 1 else 1)
                parameter.add_(0.1 * torch.randn_like(parameter))  # zeros at first cut some paths
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


def test_the_encoder_is_an_mdct_at_first() -> None:
    """All coefficients of all frames, without their emphasis, give back the signal between the first and last frame."""
    layer, frames = SpectralInput(1, HOP, HOP + 3, 80, HOP).double(), 9
    layer.initialize()
    signal = np.random.default_rng(0).normal(size=frames * HOP)
    waves = layer(torch.from_numpy(signal)[None, None])[0, :HOP].detach().numpy()
    waves /= 10 * (1 + (np.arange(HOP) + 0.5) / HOP / 0.04)[:, None]
    t, k = np.arange(2 * HOP), np.arange(HOP)[:, None]
    basis = (
        np.sqrt(2 / HOP) * np.sin(np.pi * (t + 0.5) / (2 * HOP)) * np.cos(np.pi / HOP * (t + 0.5 + HOP / 2) * (k + 0.5))
    )
    restored = np.zeros((frames + 1) * HOP)  # a window begins half a frame before its frame
    for i in range(frames):
        restored[i * HOP : (i + 2) * HOP] += basis.T @ waves[:, i]
    np.testing.assert_allclose(restored[HOP:-HOP], signal[HOP // 2 : -HOP // 2], atol=1e-5)  # float32 weights


def test_with_two_channels_their_coefficients_take_turns() -> None:
    layer = SpectralInput(2, 6, 9, 80, HOP)
    layer.initialize()
    one, two = noise(99), noise(99, batch=2)[1:]
    both = layer(torch.cat([one, two], 1))[:, :6]
    for channel, audio in enumerate((one, two)):
        mono = SpectralInput(1, 3, 6, 80, HOP)
        mono.initialize()
        torch.testing.assert_close(both[:, channel::2], mono(audio)[:, :3])


def test_the_spectral_input_computes_the_logarithms_of_numpy() -> None:
    layer = SpectralInput(2, 4, 9, 80, HOP).double()
    nn.init.normal_(layer.linear.weight)
    audio = noise(70, channels=2).double()
    samples = np.pad(audio[0].numpy(), ((0, 0), (30, 30 + 10)))  # half of what a window exceeds a hop by; a whole frame
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(80) / 80)
    for frame in range(4):
        windowed = samples[:, frame * HOP : frame * HOP + 80] * hann / np.sqrt((hann**2).sum())
        logarithm = np.log(np.sqrt(np.abs(np.fft.rfft(windowed)) ** 2 + 1e-6))
        features = ((logarithm + 3.5) / 2).flatten()
        expected = layer.linear.weight.detach().numpy() @ features + layer.linear.bias.detach().numpy()
        np.testing.assert_allclose(layer(audio)[0, 4:, frame].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_new_encoder_nearly_returns_the_transform() -> None:
    encoder = network("default").make_encoder()
    audio = noise(400)
    latent, waves = encoder(audio), encoder.layers[0](audio)[:, :8]
    assert float((latent - waves).norm() / waves.norm()) < 0.1


@torch.no_grad()
def test_the_level_of_a_latent_is_a_feature_of_its_own() -> None:
    layer = FrameInput(8, 5, 1, look_ahead=0)
    latent = torch.cat([torch.ones(1, 8, 1), 1e3 * torch.ones(1, 8, 1), torch.zeros(1, 8, 1)], -1)
    features = layer.features(latent, torch.tensor([0]))
    level = np.log(np.sqrt(8 + 1e-4))
    np.testing.assert_allclose(features[0, 8], [level, level + np.log(1e3), np.log(1e-2)], rtol=1e-5)
    np.testing.assert_allclose(features[0, 0], [8**-0.35, 1e3**0.3 * 8**-0.35, 0.0], rtol=1e-4)


@pytest.mark.parametrize("window", [40, 60, 80, 100])
def test_the_inverse_transform_of_a_signals_spectrum_is_the_signal(window: int) -> None:
    """Frames of NumPy's spectrum of a signal, windowed, give back the signal, its first and last samples included."""
    layer, frames = ISTFTOutput(1, 3, window, HOP).double(), 7
    around = (window - HOP) // 2
    signal = np.random.default_rng(0).normal(size=frames * HOP)
    padded = np.pad(signal, around)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    spectrum = np.stack([np.fft.rfft(padded[i * HOP : i * HOP + window] * hann) for i in range(frames)])
    gain = np.log(np.abs(spectrum) + 1e-300)
    waves = spectrum / np.exp(gain)
    mapped = torch.from_numpy(np.concatenate([gain, waves.real, waves.imag], -1))
    layer.linear.register_forward_hook(lambda *_: mapped[None])
    audio = layer(torch.zeros(1, 3, frames, dtype=torch.float64))
    np.testing.assert_allclose(audio[0, 0].detach().numpy(), signal, atol=2e-6)  # the window is float32


def test_gains_are_bounded() -> None:
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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "noise"])
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
    torch.testing.assert_close(streamed(encoder.layers, audio, sizes), latent, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(streamed(decoder.layers, latent, sizes), decoder(latent), rtol=1e-11, atol=1e-11)


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


# Noise


@torch.no_grad()
def test_noise_is_counted_from_the_start_of_a_stream_that_skips_frames() -> None:
    codec = codec_of("noise").double()
    codes = codec.quantizer.encode(codec.encoder(noise(60 * HOP).double()))
    whole = codec.decoder(codec.quantizer.decode(codes))
    stream, start = StreamingDecoder(codec), 17
    assert stream.needs_all_frames
    stream.skip(codes[..., :5])
    stream.skip(codes[..., 5:start])
    late = torch.cat([stream.push(codes[..., start:]), stream.flush()], -1)
    warm_up = stream.warm_up_frames * HOP
    torch.testing.assert_close(late[..., warm_up:], whole[..., start * HOP + warm_up :], rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_output_depends_on_the_noise_which_is_new_for_every_signal_in_training_alone() -> None:
    _, decoder = modules("noise")
    latent = torch.randn(1, 8, 9, dtype=torch.float64).repeat(2, 1, 1)
    evaluated = [decoder(latent) for _ in range(2)]
    torch.testing.assert_close(evaluated[0], evaluated[1], rtol=0, atol=0)
    torch.testing.assert_close(evaluated[0][0], evaluated[0][1])
    decoder.train()
    trained = [decoder(latent) for _ in range(2)]
    outputs = [evaluated[0][0], *trained[0], *trained[1]]
    distances = [float((a - b).norm() / a.norm()) for i, a in enumerate(outputs) for b in outputs[:i]]
    assert min(distances) > 0.01


def test_settings_without_noise_are_those_of_before_it_existed() -> None:
    assert "decoder_noise_channels" not in network("default").settings()
    assert ISTFTNetwork(**network("noise").settings()) == network("noise")


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
    assert decoder.output_layer.out_features == 3 * 41


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
        ({"channels": 3}, r"channels must be a whole number in \[1, 2\], got 3"),
        ({"latent_dim": 0}, r"latent_dim must be a whole number in \[1, 131072\], got 0"),
        ({"decoder_depth": 1.5}, r"decoder_depth must be a whole number in \[0, 100\], got 1.5"),
        ({"encoder_window_samples": 38}, "encoder_window_samples .* at least two hops, 40, got 38"),
        ({"decoder_window_samples": 81}, "decoder_window_samples .* at least two hops, 40, got 81"),
        ({"encoder_look_ahead": 3}, "encoder_look_ahead .* at most 2 frames with 2 convolutions of kernel 3, got 3"),
        ({"encoder_width": 8}, "encoder_width must be above latent_dim, 8, got 8"),
        ({"decoder_noise_channels": -1}, r"decoder_noise_channels must be a whole number in \[0, 131072\], got -1"),
        ({"decoder_look_ahead": 4}, "decoder_look_ahead .* at most 3 frames with 3 convolutions of kernel 3, got 4"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ISTFTNetwork(**TINY | changes)
