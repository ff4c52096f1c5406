"""The whole codec against the encodec package and transformers; model files; degenerate audio."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import codec.model as codec_model
from codec import Codec, CodecConfig, EncodedSegment, ModelFileError
from codec.model_file import fingerprint, load_model, make_codec, save_model
from codec_inputs import seanet_config
from encodec_weights import (
    TINY,
    assert_same_codes,
    codec_with_weights_of,
    encodec_model,
    fill_codebooks,
    transformers_model,
)

SEGMENTED: dict[str, Any] = {
    "channels": 2, "causal": False, "norm": "time_group_norm", "normalize": True, "segment_seconds": 1.0,
}  # fmt: skip


def tiny(**changes: Any) -> CodecConfig:
    return seanet_config(**(TINY | changes))


@torch.no_grad()
def tiny_codec(**changes: Any) -> Codec:
    """A codec whose codebooks suit its latents, so that many codes are in use."""
    codec = make_codec(tiny(**changes).to_dict()).eval()
    latent = codec.encoder(torch.randn(1, codec.config.channels, 1200))
    codec.quantizer.initialize(latent[0].t())
    return codec


# Parity


@torch.no_grad()
def assert_same_codec(config: CodecConfig, lengths: list[int], bandwidths: list[float], batch: int) -> None:
    reference = encodec_model(config)
    fill_codebooks(reference, 0.1 * torch.randn(1, config.channels, config.sample_rate // 2))
    codec = codec_with_weights_of(reference, config)
    used: set[int] = set()
    for samples in lengths:
        audio = 0.1 * torch.randn(batch, config.channels, samples)
        for bandwidth in bandwidths:
            reference.set_target_bandwidth(bandwidth)
            theirs, ours = reference.encode(audio), codec.encode_segments(audio, bandwidth)
            assert len(ours) == len(theirs)
            assert_same_codes(codec, audio, [segment.codes for segment in ours], [codes for codes, _ in theirs])
            for (codes, scale), segment in zip(theirs, ours, strict=True):
                assert segment.codes.shape[1] == config.codebooks_for(bandwidth)
                assert (segment.gain is None) == (scale is None)
                if scale is not None:
                    torch.testing.assert_close(segment.gain, scale.flatten())
                used |= set(codes.flatten().tolist())
            same = [EncodedSegment(codes, segment.gain) for (codes, _), segment in zip(theirs, ours, strict=True)]
            torch.testing.assert_close(codec.decode_segments(same), reference.decode(theirs), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(codec.decode_segments(same, samples), reference(audio), rtol=1e-4, atol=1e-5)
    assert len(used) >= min(16, config.codebook_size) // 2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channels": 2},
        {"skip": "identity", "padding": "constant", "causal": False},
        SEGMENTED,
        # Segments that are not a whole number of frames, and an overlap of a third.
        SEGMENTED | {"segment_seconds": 0.17, "overlap": 1 / 3},
        SEGMENTED | {"normalize": False, "overlap": 0.0},
    ],
    ids=["24khz", "stereo", "audiocraft", "48khz", "short_segments", "no_overlap"],
)
def test_tiny_codecs_equal_encodec(changes: dict[str, Any]) -> None:
    # At 600 Hz a segment of 1 s has 600 samples and the next starts at 594; 1189 ends in a segment of one sample.
    assert_same_codec(tiny(**changes), [1, 5, 599, 600, 601, 1189, 1300], [0.4, 1.6], batch=2)


def test_the_24khz_codec_equals_encodec() -> None:
    assert_same_codec(seanet_config(), [5, 7_321], [1.5, 24.0], batch=1)


def test_the_48khz_codec_equals_encodec() -> None:
    config = seanet_config(
        sample_rate=48_000, num_codebooks=16, bandwidths_kbps=(3.0, 24.0), **(SEGMENTED | {"segment_seconds": 0.2})
    )
    assert_same_codec(config, [700, 12_345], [3.0], batch=1)


@torch.no_grad()
def test_a_tiny_codec_equals_transformers() -> None:
    config = tiny()
    foreign = transformers_model(config)
    fill_codebooks(foreign, 0.1 * torch.randn(1, 1, 300))
    codec = codec_with_weights_of(foreign, config)
    audio = 0.1 * torch.randn(2, 1, 600)
    theirs = foreign.encode(audio, bandwidth=0.8)
    (ours,) = codec.encode_segments(audio, 0.8)
    assert torch.equal(ours.codes, theirs.audio_codes[0])
    assert len(ours.codes.unique()) > 4
    expected = foreign.decode(theirs.audio_codes, theirs.audio_scales).audio_values
    torch.testing.assert_close(codec.decode_segments([ours]), expected, rtol=1e-4, atol=1e-5)


# Training pass


@pytest.mark.parametrize("samples", [1, 5, 6, 7, 61])
@torch.no_grad()
def test_a_training_pass_is_an_encode_and_a_decode(samples: int) -> None:
    codec = tiny_codec(**SEGMENTED)
    audio = torch.randn(2, 2, samples)
    for count, bandwidth in ((1, 0.4), (4, None)):
        output = codec(audio, count)
        segments = codec.encode_segments(audio, bandwidth)
        assert torch.equal(output.quantized.codes, segments[0].codes)
        torch.testing.assert_close(output.audio, codec.decode_segments(segments, samples))
        assert output.audio.shape == audio.shape
        assert output.latent.shape == (2, 6, -(-samples // 6))


def test_latents_pass_through_when_nothing_is_quantized() -> None:
    codec = tiny_codec()
    audio = torch.randn(2, 1, 61)
    output = codec(audio, quantize=False)
    assert output.quantized is None
    assert torch.equal(output.latent, codec.encoder(audio))
    assert torch.equal(output.audio, codec.decoder(output.latent)[..., :61])
    assert not torch.equal(output.audio, codec(audio).audio)


def test_gradients_reach_every_parameter_through_the_quantizer() -> None:
    codec = tiny_codec(**SEGMENTED)
    output = codec(torch.randn(2, 2, 61))
    (output.audio.square().mean() + output.quantized.commitment.mean()).backward()
    assert [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@torch.no_grad()
def test_the_quantizer_stays_in_float32_under_autocast() -> None:
    codec = tiny_codec(codebook_size=256, latent_dim=16, bandwidths_kbps=())
    audio = torch.randn(2, 1, 1200)
    with torch.autocast("cpu", torch.bfloat16):
        output = codec(audio)
        (segment,) = codec.encode_segments(audio)
    assert output.latent.dtype == output.audio.dtype == torch.bfloat16, "the networks run in bfloat16"
    quantized = output.quantized
    assert quantized.latent.dtype == quantized.commitment.dtype == quantized.residuals.dtype == torch.float32
    expected = codec.quantizer(output.latent)
    assert torch.equal(quantized.codes, expected.codes)
    assert torch.equal(quantized.latent, expected.latent)
    assert torch.equal(segment.codes, expected.codes)


# Degenerate audio


@torch.no_grad()
def test_silence_stays_finite_and_silent_with_normalization() -> None:
    codec = tiny_codec(**SEGMENTED)
    silence = torch.zeros(2, 2, 700)
    segments = codec.encode_segments(silence)
    assert all(segment.gain.tolist() == pytest.approx([1e-8] * 2) for segment in segments)
    assert codec.decode_segments(segments, 700).abs().max() < 1e-6
    assert codec(silence).audio.abs().max() < 1e-6


@torch.no_grad()
def test_normalization_makes_the_codes_independent_of_the_level() -> None:
    codec = tiny_codec(**SEGMENTED)
    audio = torch.randn(2, 2, 700)
    loud, quiet = codec.encode_segments(audio), codec.encode_segments(audio / 128)
    for one, other in zip(loud, quiet, strict=True):
        assert torch.equal(one.codes, other.codes)
        torch.testing.assert_close(one.gain, 128 * other.gain, rtol=1e-4, atol=0)
    torch.testing.assert_close(codec.decode_segments(loud), 128 * codec.decode_segments(quiet), rtol=1e-3, atol=1e-4)
    # The scale is the RMS of the mono mix.
    expected = audio[..., :600].mean(1).square().mean(1).sqrt()
    torch.testing.assert_close(loud[0].gain, expected)


@torch.no_grad()
@pytest.mark.parametrize("left", [0.0, 0.15, 1.0])
def test_channels_that_cancel_each_other_get_a_gain_of_their_own(left: float) -> None:
    codec = tiny_codec(**SEGMENTED)
    noise = torch.randn(1, 1, 500)
    audio = torch.cat([noise, left * noise - (1 - left) * noise], 1)  # R = -L, R = -0.7 L, R = L
    (segment,) = codec.encode_segments(audio)
    assert segment.gain is not None
    level = audio.mean(1).square().mean().sqrt() if left else audio.square().mean().sqrt()
    assert torch.equal(segment.gain[0], level + 1e-8)
    assert codec.decode_segments([segment]).abs().max() > 0.01


@torch.no_grad()
def test_a_silent_item_does_not_affect_the_rest_of_the_batch() -> None:
    codec = tiny_codec(**SEGMENTED)
    audio = torch.randn(2, 2, 300)
    with_silence = codec(torch.stack([audio[0], torch.zeros(2, 300)])).audio
    torch.testing.assert_close(with_silence[0], codec(audio).audio[0])


@torch.no_grad()
def test_nan_samples_change_no_buffer() -> None:
    codec = tiny_codec().train()
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    output = codec(torch.full((1, 1, 60), float("nan")))
    assert output.audio.isnan().all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state_dict().items())


@pytest.mark.parametrize("shape", [(60,), (1, 60), (1, 2, 60), (1, 8, 60), (1, 1, 0), (1, 1, 1, 60)])
def test_audio_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    codec = tiny_codec()
    for call in (codec, codec.encode_segments, lambda audio: codec.encode(audio, 600)):
        with pytest.raises(ValueError, match=r"expected audio \[B, 1, T\] with T > 0 .* got \[" + str(shape[0])):
            call(torch.zeros(shape))


def test_an_array_is_refused_with_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"a tensor, got ndarray: torch\.as_tensor"):
        tiny_codec().encode(np.zeros((1, 1, 60), np.float32), 600)  # type: ignore[arg-type]


def test_a_bandwidth_out_of_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bitrate of 6.0 kbps .* has 1 to 4"):
        tiny_codec().encode_segments(torch.zeros(1, 1, 60), 6.0)


# Segments


@torch.no_grad()
def test_decoding_cuts_to_the_requested_length() -> None:
    codec = tiny_codec()
    segments = codec.encode_segments(torch.randn(1, 1, 601))
    whole = codec.decode_segments(segments)
    assert whole.shape == (1, 1, 606)
    assert torch.equal(codec.decode_segments(segments, 601), whole[..., :601])


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("samples", "steps"), [(24, 1), (25, 2), (240, 10), (601, 26)])
def test_long_audio_of_a_causal_codec_is_coded_in_steps(
    batch: int, samples: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step has 4 frames of 6 samples; the results equal those of one pass."""
    monkeypatch.setattr(codec_model, "_STEP_SAMPLES", 24 * batch)
    monkeypatch.setattr(codec_model, "_MIN_STEP_FRAMES", 1)
    pushed: dict[str, list[int]] = {"StreamingEncoder": [], "StreamingDecoder": []}
    for name, lengths in pushed.items():
        stream = getattr(codec_model, name)

        class Counted(stream):  # type: ignore[misc]
            def push(self, x: Tensor, lengths: list[int] = lengths) -> Tensor:
                lengths.append(x.shape[-1])
                return super().push(x)

        monkeypatch.setattr(codec_model, name, Counted)
    ours = tiny_codec()
    audio = torch.randn(batch, 1, samples)
    whole = ours.encode_segment(audio)
    (segment,) = ours.encode_segments(audio)
    assert torch.equal(segment.codes, whole.codes)
    torch.testing.assert_close(ours.decode_segments([segment]), ours.decode_segment(whole), rtol=1e-5, atol=1e-6)
    for lengths, step in zip(pushed.values(), (24, 4), strict=True):
        assert len(lengths) == (0 if steps == 1 else steps)  # one step is all at once
        assert max(lengths, default=step) == step
    before = len(pushed["StreamingEncoder"])
    tiny_codec(causal=False).encode_segments(audio)
    assert len(pushed["StreamingEncoder"]) == before


def test_a_codec_without_segments_decodes_exactly_one() -> None:
    codec = tiny_codec()
    segments = codec.encode_segments(torch.randn(1, 1, 60))
    with pytest.raises(ValueError, match="exactly one segment for a codec without segments, got 2"):
        codec.decode_segments(segments * 2)


@torch.no_grad()
def test_segments_are_independent() -> None:
    codec = tiny_codec(**SEGMENTED)
    audio = torch.randn(1, 2, 1300)
    segments = codec.encode_segments(audio)
    assert [segment.codes.shape[-1] for segment in segments] == [100, 100, 19]  # 600, 600 and 1300 - 2 * 594 samples
    changed = audio.clone()
    changed[..., 1194:] = 0.0  # past the second segment's 594 + 600
    again = codec.encode_segments(changed)
    assert torch.equal(again[1].codes, segments[1].codes)
    assert not torch.equal(again[2].codes, segments[2].codes)
    # Outside the overlaps the result is that of one segment; inside it is a cross-fade.
    pieces = [codec.decode_segment(segment) for segment in segments]
    whole = codec.decode_segments(segments)
    torch.testing.assert_close(whole[..., :594], pieces[0][..., :594])
    torch.testing.assert_close(whole[..., 600:1188], pieces[1][..., 6:594])
    first, second = pieces[0][..., 594:], pieces[1][..., :6]
    weights = torch.tensor([(6 - i) / 7 for i in range(6)])  # triangles of equal slope, 6 + 1 to 0 + 1 steps from 0
    torch.testing.assert_close(whole[..., 594:600], weights * first + (1 - weights) * second)


@torch.no_grad()
def test_codes_of_fewer_codebooks_decode() -> None:
    codec = tiny_codec()
    (segment,) = codec.encode_segments(torch.randn(1, 1, 60))
    fewer = EncodedSegment(segment.codes[:, :2], None)
    expected = codec.decoder(codec.quantizer.decode(segment.codes[:, :2]))
    assert torch.equal(codec.decode_segments([fewer]), expected)


# Model files


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Codec, Path]:
    codec = tiny_codec(**SEGMENTED)
    path = tmp_path / "model.safetensors"
    save_model(codec, path)
    return codec, path


@torch.no_grad()
def test_a_saved_codec_loads_with_the_same_outputs(saved: tuple[Codec, Path]) -> None:
    codec, path = saved
    loaded = load_model(path)
    assert not loaded.training
    assert loaded.config == codec.config
    assert fingerprint(loaded) == fingerprint(codec)
    audio = torch.randn(2, 2, 700)
    segments = codec.encode_segments(audio)
    for ours, theirs in zip(loaded.encode_segments(audio), segments, strict=True):
        assert torch.equal(ours.codes, theirs.codes)
        assert torch.equal(ours.gain, theirs.gain)
    assert torch.equal(loaded.decode_segments(segments), codec.decode_segments(segments))
    assert loaded.quantizer.initialized
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"], "no temporary file is left"


def test_a_path_may_be_a_string(saved: tuple[Codec, Path]) -> None:
    codec, path = saved
    save_model(codec, f"{path}.again")
    assert fingerprint(load_model(f"{path}.again")) == fingerprint(codec)
    with pytest.raises(ModelFileError, match="no model file at nowhere"):
        load_model("nowhere")


@torch.no_grad()
def test_a_loaded_codec_can_be_trained_on(saved: tuple[Codec, Path]) -> None:
    quantizer = load_model(saved[1]).quantizer
    before = quantizer.embed.clone()
    quantizer.update(quantizer(torch.randn(1, 6, 50)))
    # In the averages each code counts as one vector, its own value: a step moves the codes, but does not scale them.
    assert 0 < (quantizer.embed - before).norm() < 0.2 * before.norm()


def test_the_file_holds_only_what_inference_needs(saved: tuple[Codec, Path]) -> None:
    codec, path = saved
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        assert make_codec(json.loads(file.metadata()["codec"])["config"]).config == codec.config
    training = {"quantizer.cluster_size", "quantizer.embed_sum", "quantizer.updates"}
    assert names == set(codec.state_dict()) - training


def test_a_float16_file_loads_as_the_codec_with_rounded_weights(saved: tuple[Codec, Path]) -> None:
    codec, path = saved
    half = path.with_name("half.safetensors")
    save_model(codec, half, torch.float16)
    assert half.stat().st_size < 0.6 * path.stat().st_size
    loaded = load_model(half).state_dict()
    for name, tensor in codec.state_dict().items():
        if tensor.is_floating_point() and name not in ("quantizer.cluster_size", "quantizer.embed_sum"):
            assert loaded[name].dtype == torch.float32
            assert torch.equal(loaded[name], tensor.half().float())
    again = path.with_name("again.safetensors")
    save_model(load_model(half), again)  # the rounded codec's own fingerprint
    assert fingerprint(load_model(again)) == fingerprint(load_model(half)) != fingerprint(codec)


def test_the_fingerprint_changes_with_any_weight_and_the_config(saved: tuple[Codec, Path]) -> None:
    codec, path = saved
    fingerprints = {fingerprint(codec)}
    assert len(fingerprint(codec)) == 16
    for name in ("encoder.layers.0.conv.bias", "decoder.layers.0.norm.weight", "quantizer.embed"):
        other = load_model(path)
        other.state_dict()[name].view(-1)[-1].add_(1e-6)
        fingerprints.add(fingerprint(other))
    other = make_codec(tiny(**SEGMENTED, overlap=0.02).to_dict())
    other.load_state_dict(codec.state_dict())
    fingerprints.add(fingerprint(other))
    assert len(fingerprints) == 5


def test_the_fingerprint_ignores_training_state(saved: tuple[Codec, Path]) -> None:
    codec, _ = saved
    before = fingerprint(codec)
    for name in ("cluster_size", "embed_sum", "updates"):
        codec.quantizer.get_buffer(name).add_(1)
    assert fingerprint(codec.train()) == before


def test_equal_models_are_equal_files(saved: tuple[Codec, Path], tmp_path: Path) -> None:
    for attempt in range(4):
        again = tmp_path / f"{attempt}.safetensors"
        save_model(load_model(saved[1]), again)
        assert again.read_bytes() == saved[1].read_bytes()


def test_saving_replaces_an_earlier_file(saved: tuple[Codec, Path]) -> None:
    other = tiny_codec()
    save_model(other, saved[1])
    assert fingerprint(load_model(saved[1])) == fingerprint(other)


def rewritten(change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> Callable[[Path], None]:
    """Applies `change` to the weights and the config of a saved codec."""

    def spoil(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            description = json.loads(file.metadata()["codec"])
        change(weights, description["config"])
        save_file(weights, path, metadata={"codec": json.dumps(description)})

    return spoil


def flip_last_bit(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


def keep_bytes(fraction: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)]) and None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no model file at"),
        (lambda path: (path.unlink(), path.mkdir()), "no model file at"),
        (lambda path: path.write_bytes(b""), "is corrupt, or not a safetensors file"),
        (lambda path: path.write_bytes(b"RIFF" + bytes(300)), "is corrupt, or not a safetensors file"),
        (keep_bytes(0.999), "is corrupt, or not a safetensors file"),
        (keep_bytes(0.5), "is corrupt, or not a safetensors file"),
        (flip_last_bit, "is corrupt: its contents have the fingerprint"),
        (lambda path: save_file({"x": torch.zeros(3)}, path), "has no codec config in its header"),
        (lambda path: save_file({"x": torch.zeros(3)}, path, {"codec": "{"}), "does not fit its own config"),
        (lambda path: save_file({"x": torch.zeros(3)}, path, {"codec": "[1]"}), "does not fit its own config"),
        (rewritten(lambda weights, config: config.update(bogus=1)), "unexpected keyword argument 'bogus'"),
        (rewritten(lambda weights, config: config.update(bandwidths_kbps=[float("inf")])), "needs inf codebooks"),
        (rewritten(lambda weights, config: config["network"].update(filters="4")), "filters must be .* got '4'"),
        (rewritten(lambda weights, config: config["network"].update(strides=None)), "does not fit .*None"),
        (rewritten(lambda weights, config: config["network"].update(kernel_size=5)), "size mismatch for .*conv"),
        (rewritten(lambda weights, config: weights.pop("quantizer.embed")), "expected a quantizer with .*embed"),
        (rewritten(lambda weights, config: weights.update(extra=torch.zeros(1))), "Unexpected key.* \"extra\""),
    ],
    ids=[
        "missing", "folder", "empty", "foreign_bytes", "last_bytes_missing", "half_missing", "flipped_bit",
        "foreign_safetensors",
        "broken_json", "json_list", "unknown_setting", "infinite_setting", "mistyped_setting", "null_setting",
        "other_architecture", "missing_weight", "superfluous_weight",
    ],
)  # fmt: skip
def test_a_bad_model_file_gets_one_clear_line(
    saved: tuple[Codec, Path], spoil: Callable[[Path], object], message: str
) -> None:
    path = saved[1]
    spoil(path)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(path)
    line = str(caught.value)
    assert str(path) in line
    assert "\n" not in line
    assert len(line) < 300 + len(str(path))
