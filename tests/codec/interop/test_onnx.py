"""`codec export --to onnx`: onnxruntime computes what the codec computes, in one pass and in steps."""

import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from codec import Codec
from codec.cli import main
from codec.interop.onnx import export as exporting
from codec.interop.onnx import graph as onnx_graph
from codec.interop.onnx.export import export_onnx
from codec.model_file import fingerprint, load_model, make_codec, save_model
from codec_inputs import seanet_config
from onnx_inputs import Exported, assert_same_audio, assert_same_codes, configured_codec, spread_codec
from printed import only_line

PUBLISHED = ("starter_seanet", "audiocraft_24khz", "encodec_24khz", "encodec_48khz")
SMALL: dict[str, Any] = {"filters": 4, "latent_dim": 16, "num_codebooks": 8, "codebook_size": 64}
TINY: dict[str, Any] = {
    "sample_rate": 800,
    "filters": 4,
    "strides": (2, 4),
    "latent_dim": 16,
    "num_codebooks": 4,
    "codebook_size": 16,
    "bandwidths_kbps": (0.8, 1.6),
}
CAUSAL: dict[str, dict[str, Any]] = {
    "encodec": {},
    "audiocraft": {"padding": "constant", "skip": "identity"},
    "no_lstm": {"skip": "identity", "lstm_layers": 0, "activation": "relu"},
    "snake": {"skip": "identity", "lstm_layers": 0, "activation": "snake"},
    "dilated": {"residual_layers": 3, "lstm_layers": 1, "strides": (3, 1, 2)},
    "stereo": {"channels": 2, "padding": "constant", "norm": "none", "kernel_size": 4, "residual_kernel_size": 2},
}
KINDS: dict[str, dict[str, Any]] = CAUSAL | {
    "segments": {
        "causal": False, "norm": "time_group_norm", "normalize": True, "channels": 2, "segment_seconds": 0.1,
    },
    "two_sided": {"causal": False, "padding": "constant"},
    "two_sided_reflect": {"causal": False, "strides": (3, 1, 2), "kernel_size": 6, "residual_layers": 2},
    "causal_normalized": {"normalize": True},
}  # fmt: skip
STEPS = st.lists(st.sampled_from([1, 2, 3, 5, 20]), min_size=1, max_size=8)


def tiny_codec(kind: str) -> Codec:
    config = seanet_config(**TINY | KINDS[kind])
    generator = torch.Generator().manual_seed(0)
    return spread_codec(config, [torch.randn(1, config.channels, 8000, generator=generator)])


def noise(codec: Codec, samples: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, codec.config.channels, samples, generator=torch.Generator().manual_seed(samples))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Codec, Exported]]:
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        codec = tiny_codec(kind)
        export_onnx(codec, folder)
        made[kind] = codec, Exported(folder)
    return made


# Whole signals


def assert_same_clips(codec: Codec, clips: list[Tensor], exported: Exported, steps: list[int]) -> None:
    """Codes every clip with nothing but the files and onnx.json."""
    about = exported.about
    used: set[int] = set()
    for clip in clips:
        expected = codec.encode_segments(clip)
        reference = codec.decode_segments(expected)
        length = clip.shape[-1]
        segment = about["segments"] if about.get("segments") else {"samples": length, "stride_samples": length}
        decoded, weights = torch.zeros_like(reference), torch.zeros(reference.shape[-1])
        pieces = range(0, length, segment["stride_samples"])
        for start, want in zip(pieces, expected, strict=True):
            audio = clip[..., start : start + segment["samples"]]
            codes, *scale = exported.run("encoder.onnx", audio)
            assert_same_codes(codec, audio, codes, want.codes)
            for got in scale:
                assert want.gain is not None
                torch.testing.assert_close(got, want.gain, rtol=1e-5, atol=0)
            (piece,) = exported.run("decoder.onnx", want.codes, *scale)
            place = slice(start, start + piece.shape[-1])
            if start == 0:
                samples = piece.shape[-1]
                triangle = 0.5 - ((torch.arange(samples) + 1) / (samples + 1) - 0.5).abs()
            decoded[..., place] += piece * triangle[: piece.shape[-1]]
            weights[place] += triangle[: piece.shape[-1]]
            used |= set(codes.flatten().tolist())
        assert_same_audio(decoded / weights, reference)
        if "encoder_stream.onnx" in about["graphs"]:
            codes = exported.stream("encoder_stream.onnx", clip, steps, codec.config.hop_samples)
            assert_same_codes(codec, clip, codes, expected[0].codes)
            audio = exported.stream("decoder_stream.onnx", expected[0].codes, steps, 1)
            assert_same_audio(audio, reference)
    assert len(used) > 50  # of 64 or 1024: equal codes would prove little if they were all the same


def assert_same_export(name: str, folder: Path, **changes: Any) -> None:
    codec, clips = configured_codec(name, **changes)
    export_onnx(codec, folder)
    starts = [clip[..., : codec.config.sample_rate + 677] for clip in clips]  # not whole frames
    assert_same_clips(codec, starts, Exported(folder), [13, 1, 40, 7, 64])


@pytest.mark.parametrize("name", PUBLISHED)
def test_held_out_clips_with_small_models_of_the_published_kinds(name: str, tmp_path: Path) -> None:
    rate = 0.9 if name == "encodec_48khz" else 0.45
    assert_same_export(name, tmp_path, **SMALL, bandwidths_kbps=(rate, 8 * rate))


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_held_out_clips_with_models_of_full_size(name: str, tmp_path: Path) -> None:
    assert_same_export(name, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_any_length_and_batch(kind: str, tiny: dict[str, tuple[Codec, Exported]]) -> None:
    codec, exported = tiny[kind]
    for samples in [*range(1, 27), 333]:
        audio = noise(codec, samples, batch=1 + samples % 3)
        want = codec.encode_segment(audio)
        codes, *scale = exported.run("encoder.onnx", audio)
        assert_same_codes(codec, audio, codes, want.codes)
        (decoded,) = exported.run("decoder.onnx", want.codes, *scale)
        assert_same_audio(decoded, codec.decode_segment(want))


def test_any_number_of_codebooks(tiny: dict[str, tuple[Codec, Exported]]) -> None:
    codec, exported = tiny["encodec"]
    codes = codec.encode_segments(noise(codec, 200, batch=2))[0].codes
    for entry in exported.about["bandwidths"]:
        (want,) = codec.encode_segments(noise(codec, 200, batch=2), entry["kbps"])
        assert torch.equal(want.codes, codes[:, : entry["num_codebooks"]])
    for name in ("decoder.onnx", "decoder_stream.onnx"):
        for books in range(1, 5):
            want = codec.decoder(codec.quantizer.decode(codes[:, :books])).detach()
            states = exported.zeros(name, 2) if "stream" in name else {}
            audio, *_ = exported.sessions[name].run(None, {"codes": codes[:, :books].numpy()} | states)
            assert_same_audio(torch.from_numpy(audio), want)


@pytest.mark.parametrize(("count", "code"), [(4, 16), (4, -1), (4, -16), (4, -17), (5, 0)])
@pytest.mark.parametrize("name", ["decoder.onnx", "decoder_stream.onnx"])
def test_codes_out_of_range_are_an_error(
    name: str, count: int, code: int, tiny: dict[str, tuple[Codec, Exported]]
) -> None:
    """Past the codebook, before it, and of a codebook too many."""
    _, exported = tiny["audiocraft"]
    codes = torch.zeros(1, count, 9, dtype=torch.int64)
    codes[0, 1, 3] = code
    states = exported.zeros(name, 1) if "stream" in name else {}
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="invalid ind"):
        exported.sessions[name].run(None, {"codes": codes.numpy()} | states)


def test_silence_of_a_codec_that_normalizes(tiny: dict[str, tuple[Codec, Exported]]) -> None:
    codec, exported = tiny["segments"]
    audio = torch.zeros(1, 2, 80)
    codes, scale = exported.run("encoder.onnx", audio)
    want = codec.encode_segment(audio)
    assert torch.equal(codes, want.codes)
    torch.testing.assert_close(scale, torch.tensor([1e-8]))
    assert float(exported.run("decoder.onnx", codes, scale)[0].abs().max()) < 1e-6


def test_the_gain_of_channels_that_cancel_each_other(tiny: dict[str, tuple[Codec, Exported]]) -> None:
    codec, exported = tiny["segments"]
    one = noise(codec, 80)[:, :1]
    audio = torch.cat([one, -one], 1)
    want = codec.encode_segment(audio)
    codes, gain = exported.run("encoder.onnx", audio)
    torch.testing.assert_close(gain, one.square().mean().sqrt().view(1))
    assert want.gain is not None
    torch.testing.assert_close(gain, want.gain)
    assert_same_codes(codec, audio, codes, want.codes)


@pytest.mark.parametrize("kind", ["audiocraft", "no_lstm", "segments"])
def test_a_second_runtime_gives_the_same(kind: str, tmp_path: Path) -> None:
    """The reference runtime of onnx."""
    codec = tiny_codec(kind)
    export_onnx(codec, tmp_path)
    for samples in (5, 75):
        audio = noise(codec, samples, batch=2)
        want = codec.encode_segment(audio)
        codes, *scale = ReferenceEvaluator(str(tmp_path / "encoder.onnx")).run(None, {"audio": audio.numpy()})
        assert_same_codes(codec, audio, torch.from_numpy(codes), want.codes)
        given = {"codes": want.codes.numpy()} | ({"scale": scale[0]} if scale else {})
        (decoded,) = ReferenceEvaluator(str(tmp_path / "decoder.onnx")).run(None, given)
        assert_same_audio(torch.from_numpy(decoded), codec.decode_segment(want))


# Steps of a stream


@pytest.mark.parametrize("kind", CAUSAL)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(samples=st.integers(1, 400), steps=STEPS)
def test_steps_equal_the_whole(
    kind: str, samples: int, steps: list[int], tiny: dict[str, tuple[Codec, Exported]]
) -> None:
    codec, exported = tiny[kind]
    audio = noise(codec, samples, batch=1 + samples % 2)
    want = codec.encode_segment(audio)
    codes = exported.stream("encoder_stream.onnx", audio, steps, codec.config.hop_samples)
    assert_same_codes(codec, audio, codes, want.codes)
    decoded = exported.stream("decoder_stream.onnx", want.codes, steps, 1)
    assert_same_audio(decoded, codec.decode_segment(want))


@pytest.mark.parametrize("kind", CAUSAL)
def test_every_short_signal_ends_in_its_first_step_or_just_after(
    kind: str, tiny: dict[str, tuple[Codec, Exported]]
) -> None:
    """Where the reflections of start and end meet."""
    codec, exported = tiny[kind]
    for samples in range(1, 66):
        audio = noise(codec, samples)
        codes = exported.stream("encoder_stream.onnx", audio, [1], codec.config.hop_samples)
        assert_same_codes(codec, audio, codes, codec.encode_segment(audio).codes)


def test_first_step_frames_is_the_length_that_reflection_needs(tiny: dict[str, tuple[Codec, Exported]]) -> None:
    """Seven frames: a convolution over frames reflects six, and the frame of reflection itself is not repeated."""
    codec, exported = tiny["encodec"]
    for kind, frames in (("encodec", 7), ("audiocraft", 1)):
        about = tiny[kind][1].about
        assert [about["graphs"][f"{side}_stream.onnx"]["first_step_frames"] for side in ("encoder", "decoder")] == [
            frames
        ] * 2
        assert ("first_step_frames" in about["streaming"]) == (frames > 1)
    want = codec.encode_segment(noise(codec, 160))
    whole = codec.decode_segment(want)
    name = "decoder_stream.onnx"
    for first, equal in ((6, False), (7, True)):
        audio, _ = exported.step(name, want.codes[..., :first], exported.zeros(name, 1))
        assert torch.allclose(audio, whole[..., : audio.shape[-1]], rtol=0, atol=1e-5) == equal


@pytest.mark.parametrize("kind", ["encodec", "audiocraft"])
def test_streams_of_one_batch_may_begin_at_different_times(kind: str, tiny: dict[str, tuple[Codec, Exported]]) -> None:
    codec, exported = tiny[kind]
    hop = codec.config.hop_samples
    early, late = noise(codec, 30 * hop, batch=2).split(1)
    name = "encoder_stream.onnx"
    _, states = exported.step(name, early[..., : 10 * hop], exported.zeros(name, 1))
    fresh = exported.zeros(name, 1)
    both = {key: torch.cat([torch.from_numpy(states[key]), torch.from_numpy(fresh[key])]).numpy() for key in states}
    codes, _ = exported.step(name, torch.cat([early[..., 10 * hop :], late[..., : 20 * hop]]), both)
    assert torch.equal(codes[:1], codec.encode_segment(early).codes[..., 10:])
    assert torch.equal(codes[1:], codec.encode_segment(late[..., : 20 * hop]).codes)


# Files


def test_onnx_json_describes_the_graphs(tiny: dict[str, tuple[Codec, Exported]]) -> None:
    kinds = {"tensor(float)": "float32", "tensor(int64)": "int64"}
    for codec, exported in tiny.values():
        about = exported.about
        assert about["fingerprint"] == fingerprint(codec)
        for name, session in exported.sessions.items():
            graph = about["graphs"][name]
            states = graph.get("states", [])
            inputs = {t.name: (kinds[t.type], t.shape) for t in session.get_inputs()}
            assert inputs == {t["name"]: (t["dtype"], t["shape"]) for t in [*graph["inputs"], *states]}
            outputs = {t.name: (kinds[t.type], t.shape) for t in session.get_outputs()}
            after = {state["next"]: (state["dtype"], state["shape"]) for state in states}
            assert outputs == {t["name"]: (t["dtype"], t["shape"]) for t in graph["outputs"]} | after
            metadata = session.get_modelmeta().custom_metadata_map
            assert metadata["fingerprint"] == fingerprint(codec)
            assert make_codec(json.loads(metadata["config"])).config == codec.config


def test_onnx_json_of_segments(tiny: dict[str, tuple[Codec, Exported]]) -> None:
    about = tiny["segments"][1].about
    assert set(about["graphs"]) == {"encoder.onnx", "decoder.onnx"}
    assert (about["segments"]["samples"], about["segments"]["stride_samples"]) == (80, 79)
    assert about["streaming"].startswith("None: only causal codecs")
    assert [t["name"] for t in about["graphs"]["encoder.onnx"]["outputs"]] == ["codes", "scale"]
    assert "segments" not in tiny["two_sided"][1].about
    assert "encoder_stream.onnx" not in tiny["causal_normalized"][1].about["graphs"]


def test_equal_codecs_give_equal_files_without_local_paths(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        written = export_onnx(tiny_codec("encodec"), tmp_path / folder)
    assert [path.name for path in written] == [
        "encoder.onnx", "decoder.onnx", "encoder_stream.onnx", "decoder_stream.onnx", "onnx.json",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(path.name for path in written)
    for path in written:
        content = path.read_bytes()
        assert content == (tmp_path / "one" / path.name).read_bytes()
        assert str(Path.home()).encode() + b"/" not in content
        assert str(Path(__file__).parents[3]).encode() not in content
        assert str(tmp_path).encode() not in content
        assert b".py" not in content
        if path.suffix == ".onnx":
            model = onnx.load(path)
            onnx.checker.check_model(model, full_check=True)
            assert [entry.version for entry in model.opset_import] == [18]
            assert {entry.key for entry in model.metadata_props} == {"fingerprint", "config"}
            assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_the_codec_is_not_changed(tmp_path: Path) -> None:
    codec = tiny_codec("encodec")
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    export_onnx(codec, tmp_path)
    assert before.keys() == codec.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state_dict().items())


def test_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    export_onnx(tiny_codec("encodec"), tmp_path)
    export_onnx(tiny_codec("segments"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.onnx", "encoder.onnx", "onnx.json"]
    assert Exported(tmp_path).about["normalize"]


# The command and its errors


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.safetensors"
    path.parent.mkdir()
    save_model(tiny_codec("audiocraft"), path)
    return path


def test_the_command(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "folder"
    assert main(["export", str(target), "--to", "onnx", "--model", str(saved.parent)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.split() == [str(target / name) for name in exporting._FILES]
    codec = load_model(saved)
    audio = noise(codec, 100)
    (codes,) = Exported(target).run("encoder.onnx", audio)
    assert_same_codes(codec, audio, codes, codec.encode_segments(audio)[0].codes)


def refusal(capsys: pytest.CaptureFixture[str], saved: Path, target: Path, *more: str) -> str:
    assert main(["export", str(target), "--to", "onnx", "--model", str(saved), *more]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    return only_line(printed.err)


def test_without_the_package_one_line_says_how_to_install_it(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    line = refusal(capsys, saved, tmp_path / "out")
    assert line == "codec: export to ONNX needs the package onnx: bash scripts/setup.sh onnx"
    assert not (tmp_path / "out").exists()


def test_other_peoples_files_are_kept(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "decoder.onnx").write_bytes(b"theirs")
    assert "decoder.onnx that was not exported from here: choose another folder" in refusal(capsys, saved, tmp_path)
    assert (tmp_path / "decoder.onnx").read_bytes() == b"theirs"


def test_a_licence_is_refused(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--licence needs --to transformers" in refusal(capsys, saved, tmp_path / "out", "--licence", "mit")


def test_a_file_is_no_folder(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, saved, saved) == f"codec: {saved} is a file: expected a folder"


def test_weights_that_no_onnx_file_holds(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "_LARGEST", 10_000)
    line = refusal(capsys, saved, tmp_path / "out")
    assert line.startswith("codec: the encoder has weights of ")
    assert line.endswith(" bytes, an ONNX file holds at most 10000")
    assert not (tmp_path / "out").exists()


def test_a_layer_without_an_onnx_form(tmp_path: Path) -> None:
    codec = tiny_codec("audiocraft")
    codec.decoder.layers.append(torch.nn.GELU())
    with pytest.raises(ValueError, match=r"a GELU has no ONNX form here \(decoder_\d+\)"):
        export_onnx(codec, tmp_path / "out")
    assert not (tmp_path / "out").exists()
