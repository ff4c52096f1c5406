"""Derived values of the published models, refusals, the dict form, and the YAML of each model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from codec import Codec, CodecConfig

YAMLS = sorted((Path(__file__).parents[2] / "configs" / "codec").glob("*.yaml"))

# What anchors of the field publish: hop in samples, frames a second, bits a code, books, kbps a book, and the
# books at each bandwidth.
PUBLISHED: dict[str, dict[str, Any]] = {
    "encodec_24khz": {
        "rate": (24_000, 1, 320, 75, 10, 32, 0.75),
        "books": {1.5: 2, 3: 4, 6: 8, 12: 16, 24: 32},
        "settings": {"causal": True, "norm": "weight_norm", "padding": "reflect", "skip": "conv", "filters": 32},
    },
    "encodec_48khz": {
        "rate": (48_000, 2, 320, 150, 10, 16, 1.5),
        "books": {3: 2, 6: 4, 12: 8, 24: 16},
        "settings": {
            "causal": False, "norm": "time_group_norm", "padding": "reflect", "skip": "conv",
            "normalize": True, "segment_seconds": 1.0, "overlap": 0.01,
        },
    },
    "audiocraft_24khz": {
        "rate": (24_000, 1, 320, 75, 10, 32, 0.75),
        "books": {0.75: 1, 24: 32},
        "settings": {"causal": True, "padding": "constant", "skip": "identity", "filters": 32, "lstm_layers": 2},
    },
    "audiocraft_32khz": {
        "rate": (32_000, 1, 640, 50, 11, 4, 0.55),
        "books": {0.55: 1, 1.1: 2, 1.65: 3, 2.2: 4},
        "settings": {"causal": False, "padding": "constant", "skip": "identity", "filters": 64, "codebook_size": 2048},
    },
    "audiocraft_16khz": {
        "rate": (16_000, 1, 320, 50, 11, 4, 0.55),
        "books": {0.55: 1, 1.1: 2, 1.65: 3, 2.2: 4},
        "settings": {"causal": False, "padding": "constant", "skip": "identity", "filters": 64, "codebook_size": 2048},
    },
    "starter": {
        "rate": (24_000, 1, 320, 75, 10, 16, 0.75),
        "books": {6: 8, 12: 16},
        "settings": {"causal": True, "padding": "constant", "skip": "identity", "filters": 20, "lstm_layers": 0},
    },
}  # fmt: skip


def test_every_yaml_is_listed_here() -> None:
    assert {path.stem for path in YAMLS} == set(PUBLISHED)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_each_yaml_is_the_published_model(path: Path) -> None:
    node = OmegaConf.load(path)
    assert node["_target_"] == "codec.Codec"
    # All settings are spelled out, so that each can be overridden from the command line.
    assert set(node) == {"_target_", "config", "codebook_decay", "kmeans_iterations", "revive_below", "energy_exponent"}
    assert set(node.config) == {"_target_", *(field.name for field in dataclasses.fields(CodecConfig))}
    codebooks = node.codebook_decay, node.kmeans_iterations, node.energy_exponent
    starter = path.stem == "starter"
    assert codebooks == ((0.999, 10, 1) if starter else (0.99, 50, 0))
    assert node.config.celu_alpha == (1e-5 if starter else 1)
    config = instantiate(node.config, _convert_="all")
    published = PUBLISHED[path.stem]
    assert (
        config.sample_rate, config.channels, config.hop_samples, config.frame_rate_hz, config.bits_per_code,
        config.codebooks, config.kbps_per_codebook,
    ) == published["rate"]  # fmt: skip
    assert published["books"].items() <= {b: config.codebooks_for(b) for b in config.bandwidths_kbps}.items()
    assert published["settings"].items() <= config.to_dict().items()
    assert config.codebooks_for(max(config.bandwidths_kbps)) == config.codebooks
    assert config.latent_dim == 128


def test_the_starter_yaml_builds_a_codec_of_under_two_million_weights() -> None:
    (path,) = [path for path in YAMLS if path.stem == "starter"]
    codec = instantiate(OmegaConf.load(path), _convert_="all")
    assert isinstance(codec, Codec)
    assert sum(p.numel() for p in codec.parameters()) < 2e6
    assert codec.config.strides == (8, 5, 4, 2)


def test_the_defaults_are_the_24khz_model() -> None:
    node = OmegaConf.load(next(path for path in YAMLS if path.stem == "encodec_24khz"))
    assert instantiate(node.config, _convert_="all") == CodecConfig()


def test_frames_a_second_round_up_as_in_encodec() -> None:
    assert CodecConfig(sample_rate=44_100, bandwidths_kbps=()).frame_rate_hz == 138  # 137.8


@pytest.mark.parametrize("codebooks", range(1, 33))
def test_every_whole_number_of_books_is_reached_despite_rounding(codebooks: int) -> None:
    config = CodecConfig(sample_rate=32_000, strides=(4, 4, 5, 8), codebook_size=2048, bandwidths_kbps=())
    assert config.codebooks_for(codebooks * config.kbps_per_codebook) == codebooks
    assert config.codebooks_for(round(codebooks * 0.55, 2)) == codebooks


def test_a_bandwidth_between_two_books_takes_the_lower() -> None:
    assert CodecConfig().codebooks_for(1.6) == 2
    assert CodecConfig().codebooks_for(2.2499) == 2
    assert CodecConfig().codebooks_for(24.7) == 32


@pytest.mark.parametrize(
    ("bandwidth", "needed"),
    [(0.7, "0.933"), (0.0, "0"), (-6.0, "-8"), (24.75, "33"), (float("inf"), "inf"), (float("nan"), "nan")],
)
def test_a_bandwidth_out_of_reach_names_what_it_needs_and_what_there_is(bandwidth: float, needed: str) -> None:
    with pytest.raises(ValueError, match=rf"bandwidth of {bandwidth} kbps needs {needed} .*0.75 kbps.* has 1 to 32"):
        CodecConfig().codebooks_for(bandwidth)
    with pytest.raises(ValueError, match=f"bandwidth of {bandwidth} kbps"):
        CodecConfig(bandwidths_kbps=(6.0, bandwidth))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 0}, "sample_rate must be a positive whole number, got 0"),
        ({"sample_rate": 24e3}, "sample_rate must be a positive whole number, got 24000.0"),
        ({"filters": -1}, "filters must be a positive whole number, got -1"),
        ({"celu_alpha": 0}, "celu_alpha must be a finite number above 0, got 0"),
        ({"celu_alpha": float("inf")}, "celu_alpha must be a finite number above 0, got inf"),
        ({"latent_dim": 0}, "latent_dim must be a positive whole number, got 0"),
        ({"kernel_size": 0}, "kernel_size must be a positive whole number, got 0"),
        ({"residual_kernel_size": 0}, "residual_kernel_size must be a positive whole number, got 0"),
        ({"residual_layers": 0}, "residual_layers must be a positive whole number, got 0"),
        ({"dilation_base": 0}, "dilation_base must be a positive whole number, got 0"),
        ({"compress": "2"}, "compress must be a positive whole number, got '2'"),
        ({"codebooks": 0}, "codebooks must be a positive whole number, got 0"),
        ({"channels": 8}, "channels must be 1 or 2, got 8"),
        ({"strides": []}, r"strides must be positive whole numbers, got \(\)"),
        ({"strides": [2, 0]}, r"strides must be positive whole numbers, got \(2, 0\)"),
        ({"lstm_layers": -1}, "lstm_layers must be 0 or more, got -1"),
        ({"codebook_size": 1000}, "codebook_size must be a power of two, got 1000"),
        ({"codebook_size": 1}, "codebook_size must be a power of two, got 1"),
        ({"norm": "layer_norm"}, "norm must be one of weight_norm, time_group_norm, none, got 'layer_norm'"),
        ({"padding": "zeros"}, "padding must be one of reflect, constant, got 'zeros'"),
        ({"skip": "true"}, "skip must be one of conv, identity, got 'true'"),
        ({"norm": "time_group_norm"}, "time_group_norm averages over all of time, so it needs causal: false"),
        ({"segment_seconds": 0.013}, "at least one frame of 0.0133.* s, got 0.013"),
        ({"segment_seconds": -1.0}, "at least one frame of 0.0133.* s, got -1.0"),
        ({"segment_seconds": float("inf")}, "at least one frame of 0.0133.* s, got inf"),
        ({"overlap": 1.0}, r"overlap must be in \[0, 1\), got 1.0"),
        ({"overlap": -0.1}, r"overlap must be in \[0, 1\), got -0.1"),
    ],
)
def test_each_refusal_names_what_was_wanted_and_what_was_got(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodecConfig(**changes)


def test_the_dict_form_survives_json() -> None:
    config = CodecConfig(
        channels=2, causal=False, norm="time_group_norm", strides=[3, 5], bandwidths_kbps=[32], codebook_size=16,
        normalize=True, segment_seconds=0.5, overlap=0.1, skip="identity", padding="constant", celu_alpha=0.5,
    )  # fmt: skip
    values = config.to_dict()
    assert values["strides"] == [3, 5]
    assert set(values) == {field.name for field in dataclasses.fields(CodecConfig)}
    assert CodecConfig.from_dict(json.loads(json.dumps(values))) == config
    assert CodecConfig.from_dict({}) == CodecConfig()
    assert CodecConfig.from_dict(values | {"overlap": 0.2}) != config


def test_the_elu_goes_without_saying() -> None:
    """Models from before `celu_alpha` were described without it, and their fingerprints are of that description."""
    assert "celu_alpha" not in CodecConfig().to_dict()
    assert CodecConfig(celu_alpha=1) == CodecConfig.from_dict(CodecConfig().to_dict())


def test_an_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"unknown codec setting filter, latent_dmi$"):
        CodecConfig.from_dict({"latent_dmi": 128, "filters": 32, "filter": 32})


@pytest.mark.parametrize(("segment_seconds", "samples"), [(None, 77), (1.0, 24_000), (0.5, 12_000)])
def test_segment_length_in_samples(segment_seconds: float | None, samples: int) -> None:
    assert CodecConfig(segment_seconds=segment_seconds).segment_samples_or(77) == samples
