"""`codec import`: models of encodec, transformers and audiocraft, through real files and the real command.

The oracles are the packages' own networks with random weights. audiocraft's is a SEANet of the encodec package with
zeros for padding and plain skips: its layers have the same names.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn

from codec import Codec, CodecConfig
from codec.cli import main
from codec.interop import ForeignModelError, read_foreign
from codec.interop.audiocraft import read_checkpoint
from codec.model_file import fingerprint, load_model, save_model
from codec_inputs import seanet_codec, seanet_config
from encodec_weights import TINY, assert_same_codes, encodec_model, fill_codebooks, transformers_model

# Small versions of encodec's two models: 16 and 2.4 kbps per codebook of 16 codes.
MONO: dict[str, Any] = TINY | {"sample_rate": 24_000, "bandwidths_kbps": (32, 64)}
STEREO: dict[str, Any] = TINY | {
    "sample_rate": 48_000, "strides": (5, 16), "channels": 2, "causal": False, "norm": "time_group_norm",
    "normalize": True, "segment_seconds": 1.0, "bandwidths_kbps": (4.8, 9.6),
}  # fmt: skip


def imported(source: Path, out: Path) -> Codec:
    """The codec that the command imports from a file or folder."""
    assert main(["import", str(source), str(out)]) == 0
    return load_model(out if out.is_file() else out / "model.safetensors")


def refusal(source: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the error; no file is written."""
    capsys.readouterr()
    out = source.parent / "refused.safetensors"
    assert main(["import", str(source), str(out)]) == 1
    line = capsys.readouterr().err
    assert line.startswith("codec: ")
    assert line.count("\n") == 1
    assert not out.exists()
    return line


def reference_of(config: CodecConfig, samples: int = 6_000) -> nn.Module:
    reference = encodec_model(config)
    fill_codebooks(reference, 0.1 * torch.randn(1, config.channels, samples))
    return reference


@torch.no_grad()
def assert_same(
    codec: Codec, reference: nn.Module, lengths: list[int], batch: int = 2, bandwidths: Sequence[float] | None = None
) -> None:
    """The same codes at every bandwidth, and audio that differs by 1e-5 at most."""
    used: set[int] = set()
    for samples in lengths:
        audio = 0.1 * torch.randn(batch, codec.config.channels, samples)
        for bandwidth in bandwidths or codec.config.bandwidths_kbps:
            reference.bandwidth = bandwidth + 1e-6  # it rounds down, without tolerance
            theirs, ours = reference.encode(audio), codec.encode_segments(audio, bandwidth)
            assert_same_codes(codec, audio, [segment.codes for segment in ours], [codes for codes, _ in theirs])
            for segment in ours:
                used |= set(segment.codes.flatten().tolist())
            ties = [(segment.codes, scale) for segment, (_, scale) in zip(ours, theirs, strict=True)]
            expected = reference.decode(ties)[..., :samples]
            torch.testing.assert_close(codec.decode_segments(ours, samples), expected, rtol=0, atol=1e-5)
    assert len(used) >= 4


def with_new_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the parameter names of torch's newer weight norm."""
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    return {".".join([names.get(part, part) for part in name.split(".")]): tensor for name, tensor in state.items()}


def with_old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse."""
    names = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}
    for new, old in names.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    return state


# encodec


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (MONO, {}),
        (MONO, {"residual_layers": 2, "compress": 1, "lstm_layers": 0}),
        (MONO, {"strides": (5, 1, 2), "kernel_size": 5, "residual_kernel_size": 5, "bandwidths_kbps": (19.2, 38.4)}),
        (MONO, {"num_codebooks": 1, "lstm_layers": 1, "bandwidths_kbps": (16,)}),
        (STEREO, {}),
        (STEREO, {"num_codebooks": 3, "residual_layers": 3, "bandwidths_kbps": (4.8,)}),
    ],
    ids=["mono", "layers", "kernels", "one_codebook", "stereo", "three_codebooks"],
)
def test_a_state_dict_of_encodec(base: dict[str, Any], changes: dict[str, Any], tmp_path: Path) -> None:
    config = seanet_config(**base | changes)
    reference = reference_of(config)
    torch.save(reference.state_dict(), tmp_path / "old.th")
    torch.save(with_new_names(reference.state_dict()), tmp_path / "new.pt")
    codec = imported(tmp_path / "old.th", tmp_path / "old.safetensors")
    assert codec.config == config
    assert fingerprint(imported(tmp_path / "new.pt", tmp_path / "new.safetensors")) == fingerprint(codec)
    assert_same(codec, reference, [1, 601] if config.segment_seconds is None else [601, 48_001])


def test_encodecs_24khz_model(tmp_path: Path) -> None:
    reference = reference_of(seanet_config(), 7_000)
    torch.save(reference.state_dict(), tmp_path / "encodec_24khz.th")
    codec = imported(tmp_path / "encodec_24khz.th", tmp_path / "run")
    assert codec.config == seanet_config(bandwidths_kbps=(1.5, 3, 6, 12, 24))
    assert_same(codec, reference, [3_333], batch=1)


def test_encodecs_48khz_model(tmp_path: Path) -> None:
    config = seanet_config(
        sample_rate=48_000, channels=2, causal=False, norm="time_group_norm", normalize=True, segment_seconds=1.0,
        num_codebooks=16, bandwidths_kbps=(3, 6, 12, 24),
    )  # fmt: skip
    reference = reference_of(config, 12_000)
    torch.save(reference.state_dict(), tmp_path / "encodec_48khz.th")
    codec = imported(tmp_path / "encodec_48khz.th", tmp_path / "run")
    assert codec.config == config
    assert_same(codec, reference, [3_333], batch=1)
    assert_same(codec, reference, [48_700], batch=1, bandwidths=[6.0])  # a second segment


def test_the_command_describes_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(reference_of(seanet_config(**MONO)).state_dict(), tmp_path / "a.th")
    codec = imported(tmp_path / "a.th", tmp_path / "run")
    said = capsys.readouterr().out
    assert said.startswith(f"read {tmp_path / 'a.th'} as encodec's state dict\n")
    for fact in (fingerprint(codec), "24000 Hz, 1 channel", "filters 4, strides [2, 3], latent_dim 6", "32, 64 kbit/s"):
        assert fact in said
    assert main(["info", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == "".join(said.splitlines(keepends=True)[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "none"}, "with 1 channel(s) has norm weight_norm, this one has none"),
        ({"skip": "identity"}, "with 1 channel(s) has skip conv, this one has identity"),
        ({"channels": 2}, "with 2 channel(s) has norm time_group_norm, this one has weight_norm"),
        ({"codebook_size": 12, "bandwidths_kbps": ()}, "codebook_size must be a power of two, got 12"),
    ],
)
def test_an_ambiguous_state_dict_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = changes.pop("codebook_size", None)
    state = encodec_model(seanet_config(**MONO | changes)).state_dict()
    if size:
        state = {name: t[:size] if name.endswith("embed") else t for name, t in state.items()}
    torch.save(state, tmp_path / "a.th")
    assert message in refusal(tmp_path / "a.th", capsys)


def spoiled(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        state = encodec_model(seanet_config(**MONO)).state_dict()
        torch.save(change(state), path)

    return write


class NotATensor:
    """An object that only an unsafe load would create."""


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"PK\x03\x04 no archive"), "the file is corrupt or unsafe"),
        (lambda path: path.write_bytes(b"RIFF of audio"), "or torch.save did not write it"),
        (lambda path: path.write_bytes(b"\x80\x02q"), "or torch.save did not write it"),
        (lambda path: torch.save({"a": NotATensor()}, path), "torch.save did not write it (Unsupported global"),
        (lambda path: torch.save([1, 2], path), "expected the state dict of a codec"),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "expected the codebooks of a residual vector quantizer"),
        (
            spoiled(lambda state: {n: t for n, t in state.items() if n.startswith("quantizer")}),
            "expected the weights of a SEANet",
        ),
        (
            spoiled(lambda state: {n: t for n, t in state.items() if n != "decoder.model.0.conv.conv.bias"}),
            "decoder.layers.0.conv.bias should be [16], is missing",
        ),
        (
            spoiled(lambda state: state | {"quantizer.vq.layers.0.project_in.weight": torch.zeros(2)}),
            "project_in.weight should be absent, is [2]",
        ),
        (
            spoiled(lambda state: {n: t for n, t in state.items() if ".layers.2._codebook" not in n}),
            "all of one shape, got 3",
        ),
    ],
    ids=["corrupt", "audio", "cut", "unsafe", "list", "other", "no_encoder", "missing", "superfluous", "gap"],
)
def test_files_without_a_codec_are_refused(
    write: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.th")
    line = refusal(tmp_path / "a.th", capsys)
    assert message in line
    assert str(tmp_path / "a.th") in line


def test_paths_without_a_model_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tmp_path / "nothing.th"):
        assert f"compression_state_dict.bin, got {place}" in refusal(place, capsys)
    path = tmp_path / "model.safetensors"
    save_model(seanet_codec(**MONO), path)
    assert "a model of this project needs no import" in refusal(path, capsys)


def test_the_model_of_a_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(encodec_model(seanet_config(**MONO)).state_dict(), tmp_path / "a.th")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "model.safetensors").write_bytes(b"trained")
    for out in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        assert main(["import", str(tmp_path / "a.th"), str(out)]) == 1
        assert (
            f"{tmp_path / 'run'} is a training run, and its model.safetensors would be replaced"
            in capsys.readouterr().err
        )
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == b"trained"


def test_codebooks_that_were_not_initialized_stay_so(tmp_path: Path) -> None:
    model = encodec_model(seanet_config(**MONO))
    model.quantizer.vq.layers[1]._codebook.inited.fill_(0)
    torch.save(model.state_dict(), tmp_path / "a.th")
    assert not read_foreign(tmp_path / "a.th").codec.quantizer.is_initialized


# transformers


@torch.no_grad()
def assert_same_as_transformers(codec: Codec, model: nn.Module, samples: int) -> None:
    audio = 0.1 * torch.randn(2, codec.config.channels, samples)
    for bandwidth in codec.config.bandwidths_kbps:
        theirs, ours = model.encode(audio, bandwidth=bandwidth), codec.encode_segments(audio, bandwidth)
        for segment, codes in zip(ours, theirs.audio_codes, strict=True):
            frames = segment.codes.shape[-1]
            assert torch.equal(segment.codes, codes[..., :frames])
        assert theirs.audio_codes.shape[-1] - frames == theirs.last_frame_pad_length
        expected = model.decode(**theirs).audio_values
        torch.testing.assert_close(codec.decode_segments(ours), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channels": 2, "skip": "identity", "padding": "constant", "causal": False},
        {"residual_layers": 2, "dilation_base": 3, "compress": 1, "lstm_layers": 1, "kernel_size": 5},
        {
            "channels": 2, "causal": False, "norm": "time_group_norm", "normalize": True, "segment_seconds": 0.5,
            "overlap": 0.1,
        },
    ],
    ids=["24khz", "audiocraft", "layers", "48khz"],
)  # fmt: skip
def test_a_folder_of_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    config = seanet_config(**TINY | changes)
    model = transformers_model(config)
    fill_codebooks(model, 0.1 * torch.randn(1, config.channels, 300))
    model.save_pretrained(tmp_path / "theirs")
    codec = imported(tmp_path / "theirs", tmp_path / "ours")
    assert codec.config == config
    # transformers can only stack segments if all but the last are whole: 0 to 300, 270 to 570, 540 to 570.
    assert_same_as_transformers(codec, model, 601 if config.segment_seconds is None else 570)
    # The format of older versions.
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_bytes((tmp_path / "theirs" / "config.json").read_bytes())
    state = load_file(tmp_path / "theirs" / "model.safetensors")
    torch.save(with_old_names(state), old / "pytorch_model.bin")
    assert fingerprint(imported(old, tmp_path / "old_ours")) == fingerprint(codec)


def test_a_config_of_transformers_with_defaults_left_out(tmp_path: Path) -> None:
    config = seanet_config()
    model = transformers_model(config)
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "encodec"}')
    assert read_foreign(tmp_path).codec.config == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mimi"}, "config.json must be of model_type encodec, got mimi"),
        ({"last_kernel_size": 3}, "last_kernel_size must be 7, got 3"),
        ({"codebook_dim": 3}, "codebook_dim must be 6, got 3"),
        ({"trim_right_ratio": 0.5}, "trim_right_ratio must be 1.0, got 0.5"),
        ({"pad_mode": "replicate"}, "padding must be one of reflect, constant, got 'replicate'"),
        ({"norm_type": "layer_norm"}, "norm must be one of weight_norm, time_group_norm, none, got 'layer_norm'"),
        ({"chunk_length_s": 1.0, "overlap": None}, "chunk_length_s is given without overlap"),
        ({"num_filters": 5}, "the weights do not fit the settings: encoder.layers.0.conv.bias should be [5], is [4]"),
        ({"target_bandwidths": [9.6]}, "a bitrate of 9.6 kbps needs 24 codebooks"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_of_transformers_that_are_refused(
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    transformers_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    settings = json.loads((transformers_folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").symlink_to(transformers_folder / "model.safetensors")
    line = refusal(folder, capsys)
    assert message in line
    assert str(folder) in line


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformers")
    transformers_model(seanet_config(**TINY)).save_pretrained(folder)
    return folder


def test_a_folder_of_transformers_without_weights_or_with_damaged_ones(
    tmp_path: Path, transformers_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_bytes((transformers_folder / "config.json").read_bytes())
    assert "expected model.safetensors or pytorch_model.bin" in refusal(folder, capsys)
    (folder / "model.safetensors").write_bytes((transformers_folder / "model.safetensors").read_bytes()[:900])
    assert "model.safetensors is corrupt" in refusal(folder, capsys)
    (folder / "config.json").write_text("{")
    assert f"{folder}: Expecting property name" in refusal(folder, capsys)


# audiocraft

# The layout of its configuration, with the interpolations that its export keeps.
AUDIOCRAFT = """
sample_rate: 600
channels: 1
compression_model: encodec
dora: {dir: "/tmp/${oc.env:USER}"}
encodec:
  autoencoder: seanet
  quantizer: rvq
  sample_rate: ${sample_rate}
  channels: ${channels}
  causal: false
  renormalize: false
seanet:
  dimension: 6
  channels: ${channels}
  causal: ${encodec.causal}
  n_filters: 4
  n_residual_layers: 1
  ratios: [3, 2]
  activation: ELU
  activation_params: {alpha: 1.0}
  norm: weight_norm
  norm_params: {}
  kernel_size: 7
  residual_kernel_size: 3
  last_kernel_size: 7
  dilation_base: 2
  pad_mode: constant
  true_skip: true
  compress: 2
  lstm: 2
  disable_norm_outer_blocks: 0
  decoder: {trim_right_ratio: 1.0, final_activation: null, final_activation_params: null}
  encoder: {}
rvq:
  n_q: 4
  q_dropout: false
  bins: 16
  decay: 0.99
"""
AUDIOCRAFT_TINY: dict[str, Any] = TINY | {
    "causal": False, "padding": "constant", "skip": "identity", "bandwidths_kbps": (1.6,)
}  # fmt: skip


def settings_with(**changes: Any) -> str:
    """xp.cfg with values changed at paths, dots as two underscores."""
    settings = yaml.safe_load(AUDIOCRAFT)
    for path, value in changes.items():
        *groups, name = path.split("__")
        group = settings
        for key in groups:
            group = group[key]
        group[name] = value
    return yaml.safe_dump(settings)


VARIATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "musicgen": ({}, {}),
    "causal": (
        {"encodec__causal": True, "rvq__q_dropout": True},
        {"causal": True, "bandwidths_kbps": (0.4, 0.8, 1.6)},
    ),
    "stereo": (
        {"channels": 2, "encodec__renormalize": True, "seanet__norm": "time_group_norm"},
        {"channels": 2, "normalize": True, "norm": "time_group_norm"},
    ),
    "layers": (
        {
            "seanet__n_residual_layers": 3, "seanet__dilation_base": 3, "seanet__lstm": 0, "seanet__norm": "none",
            "seanet__true_skip": False, "seanet__pad_mode": "reflect", "seanet__compress": 1, "rvq__n_q": 3,
        },
        {
            "residual_layers": 3, "dilation_base": 3, "lstm_layers": 0, "norm": "none", "skip": "conv",
            "padding": "reflect", "compress": 1, "num_codebooks": 3, "bandwidths_kbps": (1.2,),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_checkpoint_of_audiocraft(name: str, tmp_path: Path) -> None:
    theirs, ours = VARIATIONS[name]
    config = seanet_config(**AUDIOCRAFT_TINY | ours)
    reference = reference_of(config)
    settings = settings_with(**theirs)
    published = {"best_state": reference.state_dict(), "xp.cfg": settings, "version": "1.3.0", "exported": True}
    torch.save(published, tmp_path / "compression_state_dict.bin")
    codec = imported(tmp_path, tmp_path / "ours")
    assert codec.config == config
    assert_same(codec, reference, [1, 601])
    # A checkpoint of the trainer, with a pickled configuration.
    trainers = {
        "best_state": {"model": reference.state_dict()},
        "xp.cfg": OmegaConf.create(settings),
        "xp.sig": "1234abcd",
        "history": [{"train": {"l1": 0.5}}],
        "model": reference.state_dict(),
    }
    torch.save(trainers, tmp_path / "checkpoint.th")
    theirs = fingerprint(imported(tmp_path / "checkpoint.th", tmp_path / "theirs"))
    assert theirs == fingerprint(codec)


def test_musicgens_tokenizer(tmp_path: Path) -> None:
    """Hop 640, 50 frames per second, 4 codebooks of 2048 codes; 8 filters instead of 64."""
    config = seanet_config(
        sample_rate=32_000, filters=8, strides=(4, 4, 5, 8), causal=False, padding="constant", skip="identity",
        num_codebooks=4, codebook_size=2048, bandwidths_kbps=(2.2,),
    )  # fmt: skip
    reference = reference_of(config, 32_000)
    settings = settings_with(
        sample_rate=32_000, seanet__dimension=128, seanet__n_filters=8, seanet__ratios=[8, 5, 4, 4], rvq__bins=2048
    )
    torch.save({"best_state": reference.state_dict(), "xp.cfg": settings}, tmp_path / "compression_state_dict.bin")
    codec = imported(tmp_path / "compression_state_dict.bin", tmp_path / "ours")
    assert codec.config == config
    assert_same(codec, reference, [3_333])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compression_model": "dac"}, "compression_model must be encodec, got dac"),
        ({"encodec__quantizer": "no_quant"}, "encodec.quantizer must be rvq, got no_quant"),
        ({"seanet__activation": "ReLU"}, "seanet.activation must be ELU, got ReLU"),
        ({"seanet__activation_params": {"alpha": 0.5}}, "seanet.activation_params.alpha must be 1.0, got 0.5"),
        ({"seanet__norm_params": {"eps": 1e-3}}, "seanet.norm_params must be {}, got {'eps': 0.001}"),
        ({"seanet__disable_norm_outer_blocks": 2}, "seanet.disable_norm_outer_blocks must be 0, got 2"),
        ({"seanet__decoder__trim_right_ratio": 0.5}, "seanet.trim_right_ratio must be 1.0, got 0.5"),
        ({"seanet__decoder__final_activation": "Tanh"}, "seanet.final_activation must be None, got Tanh"),
        ({"seanet__decoder__n_filters": 8}, "encoder and decoder must mirror each other, but filters differs"),
        ({"seanet__last_kernel_size": 3}, "seanet.last_kernel_size must be kernel_size, 7, got 3"),
        (
            {"seanet__norm": "spectral_norm"},
            "norm must be one of weight_norm, time_group_norm, none, got 'spectral_norm'",
        ),
        ({"seanet__pad_mode": "replicate"}, "padding must be one of reflect, constant, got 'replicate'"),
        ({"rvq__bins": 12}, "codebook_size must be a power of two, got 12"),
        ({"rvq__n_q": 3}, "quantizer.embed should be [3, 16, 6], is [4, 16, 6]"),
        ({"channels": "${channels}"}, "channels must be a whole number in [1, 2], got '${channels}'"),
        ({"rvq": None}, "xp.cfg has no group rvq"),
        ({"seanet": {"channels": 1}}, "xp.cfg lacks the setting kernel_size"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_of_audiocraft_that_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = encodec_model(seanet_config(**AUDIOCRAFT_TINY)).state_dict()
    torch.save({"best_state": state, "xp.cfg": settings_with(**changes)}, tmp_path / "a.bin")
    assert message in refusal(tmp_path / "a.bin", capsys)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"pretrained": "facebook/encodec_32khz"}, "the file only names a model: facebook/encodec_32khz"),
        ({"best_state": {}, "xp.cfg": AUDIOCRAFT}, "one of them is empty or missing"),
        ({"best_state": {"a": torch.zeros(1)}}, "one of them is empty or missing"),
        ({"best_state": {"a": torch.zeros(1)}, "xp.cfg": "a: [1"}, "its xp.cfg is not valid YAML"),
    ],
    ids=["pretrained", "no_best", "no_settings", "no_yaml"],
)
def test_checkpoints_of_audiocraft_without_a_model(
    checkpoint: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(checkpoint, tmp_path / "a.bin")
    assert message in refusal(tmp_path / "a.bin", capsys)


def test_a_pickled_configuration_creates_no_omegaconf_object(tmp_path: Path) -> None:
    torch.save({"xp.cfg": OmegaConf.create({"a": {"b": [1, "${c}"]}})}, tmp_path / "a.th")
    read = read_checkpoint(tmp_path / "a.th")["xp.cfg"]
    assert type(read).__module__ == "codec.interop.audiocraft"
    torch.save({"xp.cfg": OmegaConf.create({"a": Path("b")})}, tmp_path / "b.th")
    with pytest.raises(ForeignModelError, match="the file is corrupt or unsafe"):
        read_checkpoint(tmp_path / "b.th")
