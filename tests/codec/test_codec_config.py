"""Derived values of the published models, refusals, the dict form, and the YAML of each model."""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from codec import Codec, ResidualVectorQuantizer, SEANet, make_codec
from codec_inputs import flat, seanet_config

YAMLS = sorted((Path(__file__).parents[2] / "configs" / "codec").glob("*.yaml"))

# What anchors of the field publish: hop in samples, frames per second, bits per code, codebooks, kbps per codebook, and
# the codebooks at each bandwidth.
PUBLISHED: dict[str, dict[str, Any]] = {
    "encodec_24khz": {
        "rate": (24_000, 1, 320, 75, 10, 32, 0.75),
        "codebooks": {1.5: 2, 3: 4, 6: 8, 12: 16, 24: 32},
        "settings": {"causal": True, "norm": "weight_norm", "padding": "reflect", "skip": "conv", "filters": 32},
    },
    "encodec_48khz": {
        "rate": (48_000, 2, 320, 150, 10, 16, 1.5),
        "codebooks": {3: 2, 6: 4, 12: 8, 24: 16},
        "settings": {
            "causal": False, "norm": "time_group_norm", "padding": "reflect", "skip": "conv",
            "normalize": True, "segment_seconds": 1.0, "overlap": 0.01,
        },
    },
    "audiocraft_24khz": {
        "rate": (24_000, 1, 320, 75, 10, 32, 0.75),
        "codebooks": {0.75: 1, 24: 32},
        "settings": {"causal": True, "padding": "constant", "skip": "identity", "filters": 32, "lstm_layers": 2},
    },
    "audiocraft_32khz": {
        "rate": (32_000, 1, 640, 50, 11, 4, 0.55),
        "codebooks": {0.55: 1, 1.1: 2, 1.65: 3, 2.2: 4},
        "settings": {"causal": False, "padding": "constant", "skip": "identity", "filters": 64, "codebook_size": 2048},
    },
    "audiocraft_16khz": {
        "rate": (16_000, 1, 320, 50, 11, 4, 0.55),
        "codebooks": {0.55: 1, 1.1: 2, 1.65: 3, 2.2: 4},
        "settings": {"causal": False, "padding": "constant", "skip": "identity", "filters": 64, "codebook_size": 2048},
    },
    "starter_seanet": {
        "rate": (24_000, 1, 320, 75, 10, 16, 0.75),
        "codebooks": {6: 8, 12: 16},
        "settings": {"causal": True, "padding": "constant", "skip": "identity", "filters": 20, "lstm_layers": 0},
    },
}  # fmt: skip


def composed(path: Path) -> Codec:
    codec: Codec = instantiate(OmegaConf.create({"codec": OmegaConf.load(path)}).codec, _convert_="all")
    return codec


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_each_yaml_spells_out_all_settings(path: Path) -> None:
    """So each can be overridden from the command line."""
    node = OmegaConf.load(path)
    assert node["_target_"] == "codec.Codec"
    own = {"sample_rate", "bandwidths_kbps", "normalize", "segment_seconds", "overlap"}
    assert set(node) == {"_target_", "network", "quantizer"} | own
    for part in (node.network, node.quantizer):
        assert set(part) == {"_target_", *inspect.signature(get_class(part["_target_"])).parameters}
    if node.network["_target_"] == "codec.network.EncoderDecoder":
        for role, other in (("encoder", "decoder_"), ("decoder", "encoder_")):
            names = inspect.signature(get_class(node.network[role]["_target_"])).parameters
            assert set(node.network[role]) == {"_target_", *(n for n in names if not n.startswith(other))}


def test_every_yaml_of_a_seanet_is_listed_here() -> None:
    nodes = {path.stem: OmegaConf.load(path) for path in YAMLS}
    kinds = {name: (node.network["_target_"], node.quantizer["_target_"]) for name, node in nodes.items()}
    published = ("codec.network.SEANet", "codec.quantization.ResidualVectorQuantizer")
    assert {name for name, kind in kinds.items() if kind == published} == set(PUBLISHED)
    assert set(kinds) - set(PUBLISHED) == {"istft", "seanet_istft", "factorized", "fsq", "simvq", "dac_24khz"}


@pytest.mark.parametrize("name", ["factorized", "fsq", "simvq"])
def test_codecs_with_other_quantizers_have_the_network_of_the_seanet_starter(name: str) -> None:
    config = composed(YAMLS[0].with_name(f"{name}.yaml")).config
    starter = composed(YAMLS[0].with_name("starter_seanet.yaml")).config
    assert config.network == starter.network
    assert config.kbps_per_codebook == starter.kbps_per_codebook
    assert [config.codebooks_for(bandwidth) for bandwidth in config.bandwidths_kbps] == [2, 4, 8]


@pytest.mark.parametrize("name", ["istft", "seanet_istft"])
def test_codecs_with_an_inverse_stft_have_the_rates_of_the_seanet_starter(name: str) -> None:
    config = composed(YAMLS[0].with_name(f"{name}.yaml")).config
    starter = composed(YAMLS[0].with_name("starter_seanet.yaml")).config
    for name in ("sample_rate", "channels", "hop_samples", "bits_per_code", "num_codebooks", "bandwidths_kbps"):
        assert getattr(config, name) == getattr(starter, name)


@pytest.mark.parametrize("path", [path for path in YAMLS if path.stem in PUBLISHED], ids=lambda path: path.stem)
def test_each_yaml_is_the_published_model(path: Path) -> None:
    node = OmegaConf.load(path)
    quantizer = node.quantizer.decay, node.quantizer.kmeans_iterations, node.quantizer.energy_exponent
    starter = path.stem == "starter_seanet"
    assert quantizer == ((0.999, 10, 1) if starter else (0.99, 50, 0))
    assert node.network.activation == ("relu" if starter else "elu")
    config = composed(path).config
    published = PUBLISHED[path.stem]
    assert (
        config.sample_rate, config.channels, config.hop_samples, config.frame_rate_hz, config.bits_per_code,
        config.num_codebooks, config.kbps_per_codebook,
    ) == published["rate"]  # fmt: skip
    assert published["codebooks"].items() <= {b: config.codebooks_for(b) for b in config.bandwidths_kbps}.items()
    assert published["settings"].items() <= vars(flat(config)).items()
    assert config.codebooks_for(max(config.bandwidths_kbps)) == config.num_codebooks
    assert config.latent_dim == 128


def test_the_seanet_starter_builds_a_codec_of_under_two_million_weights() -> None:
    (path,) = [path for path in YAMLS if path.stem == "starter_seanet"]
    codec = composed(path)
    assert isinstance(codec, Codec)
    assert sum(p.numel() for p in codec.parameters()) < 2e6
    assert codec.config.network["strides"] == [8, 5, 4, 2]


def test_the_defaults_are_the_24khz_model() -> None:
    config = composed(next(path for path in YAMLS if path.stem == "encodec_24khz")).config
    default = Codec(SEANet(), ResidualVectorQuantizer()).config
    assert dataclasses.replace(config, bandwidths_kbps=default.bandwidths_kbps) == default
    assert default.bandwidths_kbps == (0.75, 1.5, 3, 6, 12, 24)


def test_frames_per_second_round_up_as_in_encodec() -> None:
    assert seanet_config(sample_rate=44_100, bandwidths_kbps=None).frame_rate_hz == 138  # 137.8


def test_every_number_of_codebooks_is_reached_despite_rounding() -> None:
    config = seanet_config(sample_rate=32_000, strides=(4, 4, 5, 8), codebook_size=2048, bandwidths_kbps=None)
    for codebooks in range(1, 33):
        assert config.codebooks_for(codebooks * config.kbps_per_codebook) == codebooks
        assert config.codebooks_for(round(codebooks * 0.55, 2)) == codebooks


def test_a_bandwidth_between_two_numbers_of_codebooks_takes_the_lower() -> None:
    config = seanet_config()
    assert [config.codebooks_for(bandwidth) for bandwidth in (1.6, 2.2499, 24.7)] == [2, 2, 32]


@pytest.mark.parametrize(
    ("bandwidth", "needed"),
    [(0.7, "0.933"), (0.0, "0"), (-6.0, "-8"), (24.75, "33"), (float("inf"), "inf"), (float("nan"), "nan")],
)
def test_a_bandwidth_out_of_reach_names_the_codebooks_needed_and_available(bandwidth: float, needed: str) -> None:
    with pytest.raises(ValueError, match=rf"bitrate of {bandwidth} kbps needs {needed} .*0.75 kbps.* has 1 to 32"):
        seanet_config().codebooks_for(bandwidth)
    with pytest.raises(ValueError, match=f"bitrate of {bandwidth} kbps"):
        seanet_config(bandwidths_kbps=(6.0, bandwidth))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 0}, r"sample_rate must be a whole number in \[1, 10000000\], got 0"),
        ({"sample_rate": 24e3}, r"sample_rate must be a whole number in \[1, 10000000\], got 24000.0"),
        ({"filters": -1}, r"filters must be a whole number in \[1, 131072\], got -1"),
        ({"activation": "snail"}, "activation must be one of elu, relu, snake, got 'snail'"),
        ({"compress": 33}, r"compress must be at most filters \(32\), got 33"),
        ({"latent_dim": 0}, r"latent_dim must be a whole number in \[1, 131072\], got 0"),
        ({"kernel_size": 0}, r"kernel_size must be a whole number in \[1, 131072\], got 0"),
        ({"residual_kernel_size": 0}, r"residual_kernel_size must be a whole number in \[1, 131072\], got 0"),
        ({"residual_layers": 0}, r"residual_layers must be a whole number in \[1, 100\], got 0"),
        ({"dilation_base": 0}, r"dilation_base must be a whole number in \[1, 131072\], got 0"),
        ({"compress": "2"}, r"compress must be a whole number in \[1, 131072\], got '2'"),
        ({"num_codebooks": 0}, r"codebooks must be a whole number in \[1, 1024\], got 0"),
        ({"channels": 8}, r"channels must be a whole number in \[1, 2\], got 8"),
        ({"strides": []}, r"strides must be a list of 1 or more, got \(\)"),
        ({"strides": [2, 0]}, r"strides.1 must be a whole number in \[1, 4096\], got 0"),
        ({"lstm_layers": -1}, r"lstm_layers must be a whole number in \[0, 100\], got -1"),
        ({"codebook_size": 1000}, "codebook_size must be a power of two, got 1000"),
        ({"codebook_size": 1}, r"codebook_size must be a whole number in \[2, 65536\], got 1"),
        ({"norm": "layer_norm"}, "norm must be one of weight_norm, time_group_norm, none, got 'layer_norm'"),
        ({"padding": "zeros"}, "padding must be one of reflect, constant, got 'zeros'"),
        ({"skip": "true"}, "skip must be one of conv, identity, got 'true'"),
        ({"norm": "time_group_norm"}, "time_group_norm averages over all of time, so it needs causal=false"),
        ({"segment_seconds": 0.013}, "at least one frame of 0.0133.* s, got 0.013"),
        ({"segment_seconds": -1.0}, "at least one frame of 0.0133.* s, got -1.0"),
        ({"segment_seconds": float("inf")}, "at least one frame of 0.0133.* s, got inf"),
        ({"overlap": 1.0}, r"overlap must be a number in \[0, 1\), got 1.0"),
        ({"overlap": -0.1}, r"overlap must be a number in \[0, 1\), got -0.1"),
    ],
)
def test_each_error_names_the_expected_and_the_given_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seanet_config(**changes)


def test_the_dict_form_survives_json() -> None:
    config = seanet_config(
        channels=2, causal=False, norm="time_group_norm", strides=[3, 5], bandwidths_kbps=[32], codebook_size=16,
        normalize=True, segment_seconds=0.5, overlap=0.1, skip="identity", padding="constant", activation="relu",
    )  # fmt: skip
    values = config.to_dict()
    assert values["network"]["strides"] == [3, 5]
    assert make_codec(json.loads(json.dumps(values))).config == config
    assert make_codec(values | {"overlap": 0.2}).config != config


@pytest.mark.parametrize("role", ["network", "quantizer"])
def test_an_unknown_setting_or_class_is_refused_by_name(role: str) -> None:
    values = seanet_config().to_dict()
    with pytest.raises(ValueError, match="latent_dmi"):
        make_codec(values | {role: values[role] | {"latent_dmi": 128}})
    with pytest.raises(ValueError, match=f"unknown {role} 'os.system', expected one of SEANet"):
        make_codec(values | {role: {"name": "os.system"}})
    with pytest.raises(ValueError, match="smaple_rate"):
        make_codec(values | {"smaple_rate": 24_000})


@pytest.mark.parametrize(("segment_seconds", "samples"), [(None, 77), (1.0, 24_000), (0.5, 12_000)])
def test_segment_length_in_samples(segment_seconds: float | None, samples: int) -> None:
    assert seanet_config(segment_seconds=segment_seconds).segment_samples_or(77) == samples
