"""Encoder and decoder against the encodec package and transformers; lengths, causality and padding."""

import math
from typing import Any

import pytest
import torch
from encodec.modules import SConv1d, SConvTranspose1d
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from codec import CodecConfig
from codec.network.conv import Conv1d, ConvTranspose1d, fold_weight_norm, pad
from codec_inputs import seanet_config, seanet_of
from encodec_weights import TINY, codec_with_weights_of, encodec_model, transformers_model

ENCODEC_24KHZ: dict[str, Any] = {}  # the defaults
ENCODEC_48KHZ: dict[str, Any] = {"channels": 2, "causal": False, "norm": "time_group_norm"}
AUDIOCRAFT_24KHZ: dict[str, Any] = {"skip": "identity", "padding": "constant"}
AUDIOCRAFT_32KHZ: dict[str, Any] = AUDIOCRAFT_24KHZ | {"causal": False}
FOUR_KINDS = pytest.mark.parametrize(
    "kind",
    [ENCODEC_24KHZ, ENCODEC_48KHZ, AUDIOCRAFT_24KHZ, AUDIOCRAFT_32KHZ],
    ids=["encodec_24khz", "encodec_48khz", "audiocraft_24khz", "audiocraft_32khz"],
)


def tiny(**changes: Any) -> CodecConfig:
    return seanet_config(**(TINY | changes))


def assert_same_networks(foreign: nn.Module, config: CodecConfig, lengths: list[int]) -> None:
    """Compared in float64, with a tolerance far below any difference in the computation."""
    codec = codec_with_weights_of(foreign, config)
    foreign.double(), codec.double()
    for samples in lengths:
        audio = torch.randn(2, config.channels, samples, dtype=torch.float64)
        latent = foreign.encoder(audio)
        assert latent.std() > 1e-3
        torch.testing.assert_close(codec.encoder(audio), latent, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(codec.decoder(latent), foreign.decoder(latent), rtol=1e-9, atol=1e-10)


@FOUR_KINDS
@torch.no_grad()
def test_tiny_networks_equal_encodec_at_every_short_length(kind: dict[str, Any]) -> None:
    config = tiny(**kind)
    assert_same_networks(encodec_model(config), config, [*range(1, 20), 600, 601])


@pytest.mark.parametrize(
    "changes",
    [
        {"residual_layers": 3, "dilation_base": 3},
        {"lstm_layers": 0, "strides": (3, 5, 1)},
        {"norm": "none", "kernel_size": 4, "residual_kernel_size": 2, "causal": False},
        {"compress": 1, "padding": "constant"},
    ],
    ids=["dilated", "no_lstm_odd_strides", "even_kernels", "uncompressed"],
)
@torch.no_grad()
def test_every_setting_of_the_networks_equals_encodec(changes: dict[str, Any]) -> None:
    config = tiny(bandwidths_kbps=(), **changes)
    assert_same_networks(encodec_model(config), config, [1, 7, 241])


@pytest.mark.parametrize("kind", [ENCODEC_24KHZ, ENCODEC_48KHZ], ids=["encodec_24khz", "encodec_48khz"])
@torch.no_grad()
def test_paper_size_networks_equal_encodec(kind: dict[str, Any]) -> None:
    config = seanet_config(bandwidths_kbps=(), num_codebooks=1, **kind)
    assert_same_networks(encodec_model(config), config, [4001])


@FOUR_KINDS
@torch.no_grad()
def test_tiny_networks_equal_transformers(kind: dict[str, Any]) -> None:
    config = tiny(**kind)
    assert_same_networks(transformers_model(config), config, [1, 13, 601])


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        # The paper's 24 kHz model; FunCodec's README rounds it to 14.85, encodec-pytorch#6 logs 59.42 MB of float32.
        (seanet_config(), 14.85),
        # audiocraft has no convolutions beside the residual units: 32^2 + 64^2 + 128^2 + 256^2 weights less, twice,
        # with a gain and a bias per channel.
        (seanet_config(**AUDIOCRAFT_24KHZ), 14.85 - 2 * (87_040 + 2 * 480) / 1e6),
    ],
    ids=["encodec_24khz", "audiocraft_24khz"],
)
def test_parameter_counts_are_the_published_ones(config: CodecConfig, millions: float) -> None:
    with torch.device("meta"):
        networks = [seanet_of(config).make_encoder(), seanet_of(config).make_decoder()]
    count = sum(p.numel() for network in networks for p in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_audiocraft_32khz_has_as_many_parameters_as_in_transformers() -> None:
    config = seanet_config(
        sample_rate=32_000, filters=64, strides=(4, 4, 5, 8), num_codebooks=4, codebook_size=2048,
        bandwidths_kbps=(2.2,),
        **AUDIOCRAFT_32KHZ,
    )  # fmt: skip
    assert (config.hop_samples, config.frame_rate_hz) == (640, 50)
    with torch.device("meta"):
        networks = [seanet_of(config).make_encoder(), seanet_of(config).make_decoder()]
        foreign = transformers_model(config)
    ours = sorted(tuple(p.shape) for network in networks for p in network.parameters())
    assert ours == sorted(tuple(p.shape) for p in foreign.parameters())


# Causality


def prefix_error(config: CodecConfig, frames: int) -> tuple[float, float]:
    """How much the first `frames` frames, and their audio, depend on later frames."""
    torch.manual_seed(1)
    encoder, decoder = seanet_of(config).make_encoder().double(), seanet_of(config).make_decoder().double()
    audio = torch.randn(1, config.channels, 20 * config.hop_samples, dtype=torch.float64)
    latent = encoder(audio)
    prefix = encoder(audio[..., : frames * config.hop_samples])
    decoded = decoder(latent[..., :frames])
    return (
        (prefix - latent[..., :frames]).abs().max().item(),
        (decoded - decoder(latent)[..., : frames * config.hop_samples]).abs().max().item(),
    )


# Reflection at the start needs the 7 frames of the kernel; zeros need none.
@pytest.mark.parametrize(("padding", "frames"), [("reflect", 7), ("reflect", 15), ("constant", 1), ("constant", 15)])
@torch.no_grad()
def test_a_causal_prefix_codes_and_decodes_like_the_whole(padding: str, frames: int) -> None:
    encoded, decoded = prefix_error(tiny(padding=padding), frames)
    assert encoded < 1e-12
    assert decoded < 1e-12


@torch.no_grad()
def test_a_non_causal_prefix_does_not() -> None:
    encoded, decoded = prefix_error(tiny(causal=False), 15)
    assert encoded > 1e-3
    assert decoded > 1e-3


# Lengths


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("strides", [(2, 3), (3, 5), (4,), (1, 7)])
@torch.no_grad()
def test_frames_are_the_length_over_the_hop_rounded_up(causal: bool, strides: tuple[int, ...]) -> None:
    config = tiny(filters=1, compress=1, lstm_layers=0, strides=strides, causal=causal, bandwidths_kbps=())
    encoder, decoder = seanet_of(config).make_encoder(), seanet_of(config).make_decoder()
    for samples in range(1, 3 * config.hop_samples + 2):
        latent = encoder(torch.randn(1, 1, samples))
        assert latent.shape == (1, config.latent_dim, math.ceil(samples / config.hop_samples))
        assert decoder(latent).shape == (1, 1, latent.shape[-1] * config.hop_samples)


# Single convolutions


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padding", ["reflect", "constant"])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 1, 1), (3, 1, 4), (10, 5, 1), (6, 3, 1), (1, 1, 1)])
@torch.no_grad()
def test_convolutions_of_short_inputs_equal_encodec(
    causal: bool, padding: str, kernel: int, stride: int, dilation: int
) -> None:
    ours = Conv1d(2, 3, kernel, stride=stride, dilation=dilation, causal=causal, norm="none", padding=padding)
    theirs = SConv1d(2, 3, kernel, stride, dilation, causal=causal, norm="none", pad_mode=padding)
    theirs.conv.conv.load_state_dict(ours.conv.state_dict())
    for samples in range(1, kernel * dilation + 2):
        x = torch.randn(1, 2, samples)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@torch.no_grad()
def test_transposed_convolutions_equal_encodec(causal: bool, stride: int) -> None:
    ours = ConvTranspose1d(2, 3, 2 * stride, stride=stride, causal=causal, norm="none")
    theirs = SConvTranspose1d(2, 3, 2 * stride, stride, causal=causal, norm="none")
    theirs.convtr.convtr.load_state_dict(ours.conv.state_dict())
    for frames in (1, 2, 9):
        x = torch.randn(1, 2, frames)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_pad_worked_examples() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert pad(x, 2, 1, "reflect").tolist() == [[[3, 2, 1, 2, 3, 2]]]
    assert pad(x, 2, 1, "constant").tolist() == [[[0, 0, 1, 2, 3, 0]]]
    # Too short to reflect: filled with zeros to [1, 0, 0, 0], reflected, and the fill cut again.
    assert pad(x[..., :1], 3, 1, "reflect").tolist() == [[[0, 0, 0, 1, 0]]]
    assert pad(x, 0, 0, "reflect").tolist() == [[[1, 2, 3]]]


# Training and inference forms


@FOUR_KINDS
def test_gradients_reach_every_parameter_and_the_input(kind: dict[str, Any]) -> None:
    config = tiny(**kind)
    encoder, decoder = seanet_of(config).make_encoder(), seanet_of(config).make_decoder()
    audio = torch.randn(2, config.channels, 60, requires_grad=True)
    decoder(encoder(audio)).square().sum().backward()
    reached: dict[str, Tensor | None] = {"audio": audio.grad}
    reached |= {f"encoder.{k}": p.grad for k, p in encoder.named_parameters()}
    reached |= {f"decoder.{k}": p.grad for k, p in decoder.named_parameters()}
    assert [name for name, grad in reached.items() if grad is None or not grad.abs().max() > 0] == []


@pytest.mark.parametrize("norm", ["weight_norm", "time_group_norm", "none"])
@torch.no_grad()
def test_folding_the_weight_norm_keeps_the_outputs(norm: str) -> None:
    config = tiny(norm=norm, causal=False)
    codec = codec_with_weights_of(encodec_model(config), config).double()
    audio = torch.randn(1, 1, 61, dtype=torch.float64)
    latent = codec.encoder(audio)
    decoded = codec.decoder(latent)
    convolutions = [m for m in codec.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]
    assert all(is_parametrized(m, "weight") == (norm == "weight_norm") for m in convolutions)
    fold_weight_norm(codec)
    assert not any(is_parametrized(m) for m in codec.modules())
    torch.testing.assert_close(codec.encoder(audio), latent, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(codec.decoder(latent), decoded, rtol=1e-12, atol=1e-12)
