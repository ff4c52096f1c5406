"""Files of the encodec package, both ways; the package itself is the oracle, with random weights."""

import io
import json
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from encodec.model import EncodecModel, LMModel
from torch import Tensor

from codec import Codec, CodecConfig, EncodedSegment
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.format import EncodecReader, segment_bytes
from codec.bitstream.encodec.header import OFFICIAL, EncodecHeader, official_name
from codec.bitstream.encodec.language_model import EncodecLM, LMState, read_encodec_lm
from codec.bitstream.reader import BitstreamError
from codec.cli import main
from codec.coding.file_codec import FileCodec
from encodec_package import (
    FRAME_RATES,
    Frames,
    package_lm,
    package_model,
    package_reads,
    package_writes,
    random_frames,
)
from encodec_weights import codec_with_weights_of, fill_codebooks

NAMES = list(OFFICIAL)


@pytest.fixture(scope="module")
def models() -> dict[str, EncodecModel]:
    torch.manual_seed(0)
    made = {name: package_model(name) for name in NAMES}
    for model in made.values():
        fill_codebooks(model, 0.1 * torch.randn(1, model.channels, model.sample_rate))
    return made


@pytest.fixture(scope="module")
def lms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[LMModel, EncodecLM, Path]]:
    """The package's language models, ours with the same weights, and the files that these come from."""
    torch.manual_seed(0)
    made = {}
    for name in NAMES:
        path = tmp_path_factory.mktemp("lm") / f"{name}.th"
        torch.save((lm := package_lm(name)).state_dict(), path)
        made[name] = lm, read_encodec_lm(path, OFFICIAL[name]), path
    return made


@pytest.fixture(scope="module")
def checkpoints(models: dict[str, EncodecModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        codec_with_weights_of(model, OFFICIAL[name]).save(folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in models}


def written(name: str, frames: Frames, samples: int, lm: EncodecLM | None) -> bytes:
    header = EncodecHeader(name, samples, frames[0][0].shape[1], lm is not None)
    # In pieces, as a stream gives them.
    body = [segment_bytes(codes[0].split(8, -1), None if s is None else float(s), lm) for codes, s in frames]
    return b"".join([header.to_bytes(), *body])


def read(data: bytes, lm: Any = None) -> tuple[EncodecReader, list[tuple[Tensor, float | None]]]:
    reader = EncodecReader(ByteSource(io.BytesIO(data)), "file", lm)
    return reader, [(torch.from_numpy(block.codes.copy()), block.scale) for block in reader.blocks()]


def assert_agree(model: EncodecModel, samples: int, books: int, lm: tuple[LMModel, EncodecLM] | None) -> None:
    """One file, both writers and both readers."""
    theirs, ours = lm or (None, None)
    frames = random_frames(model, samples, books)
    data = package_writes(model, frames, samples, theirs)
    assert written(model.name, frames, samples, ours) == data
    reader, blocks = read(data, ours)
    assert reader.samples == samples
    if model.segment is None:
        assert torch.equal(torch.cat([codes for codes, _ in blocks], -1), frames[0][0][0])
    else:
        assert len(blocks) == len(frames) == reader.header.segments
        for (codes, scale), (wanted, wanted_scale) in zip(blocks, frames, strict=True):
            assert torch.equal(codes, wanted[0])
            assert wanted_scale is not None
            assert scale == float(wanted_scale)
    if reader.header.package_reads():
        found, _ = package_reads(model, data, theirs)
        for (codes, scale), (wanted, wanted_scale) in zip(found, frames, strict=True):
            assert torch.equal(codes, wanted)
            assert scale is None if wanted_scale is None else torch.equal(scale, wanted_scale.view(1))


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("encodec_24khz", [1, 319, 320, 321, 6_720, 24_000, 24_001, 200_001]),
        # The last segment starts before the end of the one before it: two segments from 47521 samples on.
        ("encodec_48khz", [1, 321, 6_720, 47_520, 47_521, 47_700, 48_000, 48_001, 95_040, 95_041, 150_000]),
    ],
)
def test_files_are_those_of_the_package(models: dict[str, EncodecModel], name: str, lengths: list[int]) -> None:
    for samples in lengths:
        assert_agree(models[name], samples, 4, None)


@pytest.mark.parametrize("name", NAMES)
def test_files_of_every_bandwidth_are_those_of_the_package(models: dict[str, EncodecModel], name: str) -> None:
    for bandwidth in models[name].target_bandwidths:
        assert_agree(models[name], 5_000, OFFICIAL[name].codebooks_for(bandwidth), None)


@pytest.mark.parametrize(
    ("name", "samples", "books"),
    [
        ("encodec_24khz", 8_000, 2),
        ("encodec_24khz", 2_000, 32),
        ("encodec_48khz", 47_600, 2),
        ("encodec_48khz", 9, 16),
    ],
)
def test_compressed_files_are_those_of_the_package(
    models: dict[str, EncodecModel], lms: dict[str, Any], name: str, samples: int, books: int
) -> None:
    assert_agree(models[name], samples, books, lms[name][:2])


@pytest.mark.long
def test_a_compressed_file_longer_than_the_context_is_that_of_the_package(
    models: dict[str, EncodecModel], lms: dict[str, Any]
) -> None:
    assert_agree(models["encodec_24khz"], 270 * 320, 1, lms["encodec_24khz"][:2])


# Segments of the 48 kHz model have 150 frames, fewer than its context.
@pytest.mark.parametrize(("name", "frames"), [("encodec_24khz", 266), ("encodec_48khz", 40)])
@torch.no_grad()
def test_probabilities_are_those_of_the_package(lms: dict[str, Any], name: str, frames: int) -> None:
    theirs, ours, _ = lms[name]
    context = int(3.5 * FRAME_RATES[name])
    codes = torch.randint(1024, (frames, 2))
    before, state = None, None
    indices, their_state, offset = torch.zeros(1, 2, 1, dtype=torch.long), None, 0
    for frame in codes:
        got, state = ours(before, 2, state)
        wanted, their_state, offset = theirs(indices, their_state, offset)
        assert torch.equal(got, wanted[0, :, :, 0])
        before, indices = frame, 1 + frame.view(1, 2, 1)
    assert isinstance(state, LMState)
    assert [list(past.shape) for past in state.past] == [[1, min(frames + 1, context), 200]] * 5
    assert float(got.max()) > 0.01  # far from uniform: the comparison is of something


def test_which_lengths_the_package_itself_cannot_read(models: dict[str, EncodecModel]) -> None:
    lengths = {
        "encodec_24khz": [320, 321, 6_719, 6_720, 6_721, 13_440, 24_000],
        "encodec_48khz": [320, 6_720, 47_520 + 6_720, 47_520, 47_680, 47_681, 47_840, 47_841, 48_000, 100_000],
    }
    unread = set()
    for name, some in lengths.items():
        for samples in some:
            data = package_writes(models[name], random_frames(models[name], samples, 2), samples, None)
            try:
                package_reads(models[name], data, None)
                reads = True
            except (EOFError, RuntimeError):
                reads = False
                unread.add((name, samples))
            assert EncodecHeader(name, samples, 2, False).package_reads() == reads, (name, samples)
            assert len(read(data)[1]) > 0  # here they are read all the same
    assert {("encodec_24khz", 6_720), ("encodec_48khz", 47_700 - 19)} <= unread


def small_files(lms: dict[str, Any]) -> Iterator[tuple[bytes, Any]]:
    """Complete files of some ten bytes of codes, with what reads them."""
    for name, samples in (("encodec_24khz", 900), ("encodec_48khz", 700), ("encodec_48khz", 47_530)):
        length, stride = (48_000, 47_520) if name == "encodec_48khz" else (samples, samples)
        frames: Frames = [
            (torch.randint(1024, (1, 1, -(-min(length, samples - s) // 320))), torch.ones(1) if length > 900 else None)
            for s in range(0, samples, stride)
        ]
        yield written(name, frames, samples, None), None
        if samples < 1_000:
            yield written(name, frames, samples, lms[name][1]), lms[name][1]


def test_a_file_that_is_cut_anywhere_is_refused(lms: dict[str, Any]) -> None:
    for data, lm in small_files(lms):
        read(data, lm)
        for end in range(len(data)):
            with pytest.raises(BitstreamError, match=r"^file is [^\n]*$"):
                read(data[:end], lm)
        with pytest.raises(BitstreamError, match="bytes follow its end"):
            read(data + b"\0", lm)


def test_a_file_with_a_wrong_bit_is_read_or_refused(lms: dict[str, Any]) -> None:
    refused = 0
    for data, lm in small_files(lms):
        start = 9 + struct.unpack(">I", data[5:9])[0]
        bits = [*range(8 * start), *range(8 * start, 8 * len(data), 1 if len(data) < 150 else 37)]
        for bit in bits[:: 3 if lm else 1]:
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            try:
                read(bytes(damaged), lm)
            except BitstreamError:
                refused += 1
    assert refused > 1000


def with_header(text: bytes | dict[str, Any], body: bytes = bytes(100), length: int | None = None) -> bytes:
    text = json.dumps(text).encode() if isinstance(text, dict) else text
    return struct.pack(">4sBI", b"ECDC", 0, len(text) if length is None else length) + text + body


GOOD: dict[str, Any] = {"m": "encodec_24khz", "al": 320, "nc": 2, "lm": False}
LIES: dict[str, tuple[bytes, str]] = {
    "version": (b"ECDC\x01" + bytes(50), "not in the encodec package's own format"),
    "long_header": (with_header(b"{}", length=(1 << 32) - 1), "its header claims 4294967295 bytes"),
    "header_beyond_the_end": (with_header(b"{}", length=60_000), "ends before its content"),
    "no_json": (with_header(b"{"), "is not understood"),
    "no_utf8": (with_header(b"\xff\xfe"), "is not understood"),
    "nested": (with_header(b"[" * 60_000), "nested too deeply"),
    "no_object": (with_header(b"[1]"), "a JSON object with m, al, nc and lm is wanted"),
    "endless_number": (with_header(b'{"al": ' + b"9" * 50_000 + b"}"), "is not understood"),
    "missing": (with_header({"m": "encodec_24khz"}), "a JSON object with m, al, nc and lm is wanted"),
    "model": (with_header(GOOD | {"m": "unset"}), "its model is 'unset', none of encodec_24khz, encodec_48khz"),
    "model_list": (with_header(GOOD | {"m": ["encodec_24khz"]}), "its model is"),
    "al_negative": (with_header(GOOD | {"al": -1}), "al must be a whole number from 0"),
    "al_fraction": (with_header(GOOD | {"al": 320.0}), "al must be a whole number"),
    "al_nan": (with_header(GOOD | {"al": float("nan")}), "al must be a whole number"),
    "al_huge": (with_header(GOOD | {"al": 1 << 61}), "ends before its content"),
    "al_huge_segments": (with_header(GOOD | {"m": "encodec_48khz", "al": 1 << 61}), "ends before its content"),
    "al_beyond": (with_header(GOOD | {"al": 10**100}), "al must be a whole number"),
    "al_short": (with_header(GOOD), "bytes follow its end"),
    "nc_zero": (with_header(GOOD | {"nc": 0}), "nc must be a whole number from 1 to 32, got 0"),
    "nc_beyond": (with_header(GOOD | {"nc": 33}), "nc must be a whole number from 1 to 32, got 33"),
    "nc_stereo": (with_header(GOOD | {"m": "encodec_48khz", "nc": 17}), "nc must be a whole number from 1 to 16"),
    "nc_true": (with_header(GOOD | {"nc": True}), "nc must be a whole number"),
    "lm_number": (with_header(GOOD | {"lm": 1}), "lm must be true or false, got 1"),
    "lm_missing": (with_header(GOOD | {"lm": True}), "compressed with the language model of encodec_24khz: give"),
    "scale_nan": (with_header(GOOD | {"m": "encodec_48khz"}, struct.pack(">f", np.nan) + bytes(3)), "the scale nan"),
    "scale_infinite": (with_header(GOOD | {"m": "encodec_48khz"}, struct.pack(">f", np.inf) + bytes(3)), "scale inf"),
    "scale_huge": (with_header(GOOD | {"m": "encodec_48khz"}, struct.pack(">f", 2.0**64) + bytes(3)), r"scale 1\.8"),
    "scale_zero": (with_header(GOOD | {"m": "encodec_48khz"}, bytes(7)), "the scale 0.0"),
    "scale_negative": (with_header(GOOD | {"m": "encodec_48khz"}, struct.pack(">f", -1) + bytes(3)), "scale -1.0"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_in_one_line_and_little_memory(lie: str) -> None:
    data, message = LIES[lie]
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match=message) as caught:
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_largest_level_of_a_signal_is_a_scale_and_no_larger_one() -> None:
    """A level is the root of a float32: what lies beyond comes of a wrong bit, and would overflow in the decoder."""
    largest = float(torch.tensor(torch.finfo(torch.float32).max).sqrt())
    codes = torch.randint(1024, (2, 3))
    header = EncodecHeader("encodec_48khz", 900, 2, False).to_bytes()
    _, ((_, scale),) = read(header + segment_bytes([codes], largest, None))
    assert scale == largest
    for beyond in (float(np.nextafter(np.float32(largest), np.float32(np.inf))), np.inf, np.nan):
        with pytest.raises(ValueError, match="audio so loud cannot be encoded"):
            segment_bytes([codes], beyond, None)


def test_audio_whose_squares_overflow_is_refused_and_leaves_no_file(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "in.wav", np.full((900, 2), 1e19), 48_000, subtype="FLOAT")
    target = tmp_path / "out.ecdc"
    assert command("encode", tmp_path / "in.wav", target, checkpoints["encodec_48khz"], "--format", "encodec") == 1
    assert capsys.readouterr().err.startswith("codec: audio so loud cannot be encoded: a segment has the scale inf")
    assert not target.exists()


def test_a_compressed_file_cannot_claim_more_than_its_bits_can_hold(lms: dict[str, Any]) -> None:
    def never(before: Tensor | None, books: int, state: Any) -> tuple[Tensor, Any]:
        raise AssertionError("nothing is to be decoded")

    with pytest.raises(BitstreamError, match="ends before its content"):
        read(with_header(GOOD | {"al": 1 << 40, "lm": True}), never)
    # Random bits are used up soon, whatever is claimed.
    with pytest.raises(BitstreamError, match=r"ends before its content|stand for no code"):
        read(with_header(GOOD | {"al": 320 * 100_000, "lm": True}, os.urandom(100)), lms["encodec_24khz"][1])


def test_an_hour_is_read_in_the_memory_of_a_few_seconds() -> None:
    header = EncodecHeader("encodec_24khz", 24_000 * 3_600, 2, False)
    file = io.BytesIO(header.to_bytes() + bytes(3_600 * 75 * 2 * 10 // 8))
    reader = EncodecReader(ByteSource(file), "file")
    tracemalloc.start()
    try:
        assert sum(block.codes.shape[1] for block in reader.blocks()) == 3_600 * 75
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_silent_file_of_a_sure_model_is_read() -> None:
    """What the language model is sure of takes next to no bits: the bound on what bytes can hold must allow it."""

    def sure(before: Tensor | None, books: int, state: Any) -> tuple[Tensor, Any]:
        probabilities = torch.zeros(1024, books)
        probabilities[3] = 1
        return probabilities, None

    codes = torch.full((32, 1_000), 3)
    data = EncodecHeader("encodec_24khz", 320_000, 32, True).to_bytes() + segment_bytes([codes], None, sure)
    assert len(data) < 75
    assert torch.equal(torch.cat([block for block, _ in read(data, sure)[1]], -1), codes)


def test_other_arithmetic_is_found_out_where_the_codes_end(lms: dict[str, Any]) -> None:
    """As it is by another number of threads: probabilities that differ in their seventh digit."""
    exact = lms["encodec_24khz"][1]

    def inexact(before: Tensor | None, books: int, state: Any) -> tuple[Tensor, Any]:
        probabilities, state = exact(before, books, state)
        return probabilities * (1 + 3e-7 * torch.randn_like(probabilities)), state

    found = 0
    for seed in range(6):
        torch.manual_seed(seed)
        codes = torch.randint(1024, (4, 40))
        data = EncodecHeader("encodec_24khz", 12_800, 4, True).to_bytes() + segment_bytes([codes], None, exact)
        try:
            read(data, inexact)
        except BitstreamError as error:
            found += "; or it was compressed with another language model, torch, processor" in str(error)
    assert found >= 5


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"filters": 16}, "encodec_24khz has filters 32, this model has 16"),
        ({"codebooks": 16, "bandwidths_kbps": (6,)}, "encodec_24khz has codebooks 32, this model has 16"),
        ({"channels": 2}, "encodec_48khz has sample_rate 48000, this model has 24000"),
        ({"segment_seconds": 1.0}, "encodec_24khz has segment_seconds None, this model has 1.0"),
    ],
)
def test_other_architectures_are_refused_by_what_differs(changes: dict[str, Any], difference: str) -> None:
    with pytest.raises(ValueError, match=difference):
        official_name(CodecConfig(**changes))


def test_official_architectures_are_known_whatever_they_offer() -> None:
    assert [official_name(config) for config in OFFICIAL.values()] == NAMES
    assert official_name(CodecConfig(bandwidths_kbps=(3.0,), overlap=0.5)) == "encodec_24khz"


def run(*arguments: str | Path) -> int:
    return main([str(a) for a in arguments])


def command(task: str, source: Path, target: Path, checkpoint: Path, *more: str | Path) -> int:
    return run(task, source, target, "--checkpoint", checkpoint, "--device", "cpu", *more)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "samples", "compressed"),
    [
        ("encodec_24khz", 8_000, False),
        ("encodec_24khz", 6_000, True),
        ("encodec_48khz", 50_000, False),
        ("encodec_48khz", 3_000, True),
    ],
)
def test_files_of_the_command_decode_in_the_package_and_the_other_way(
    models: dict[str, EncodecModel], checkpoints: dict[str, Path], lms: dict[str, Any], tmp_path: Path, name: str,
    samples: int, compressed: bool, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model, (their_lm, _, lm_path) = models[name], lms[name]
    audio = 0.1 * torch.randn(model.channels, samples)
    soundfile.write(tmp_path / "in.wav", audio.T.numpy(), model.sample_rate, subtype="FLOAT")
    model.set_target_bandwidth(3.0)
    frames = model.encode(audio[None])
    codec = Codec.load(checkpoints[name])
    lm = their_lm if compressed else None
    options: list[str | Path] = ["--lm", lm_path] if compressed else []
    theirs = package_writes(model, frames, samples, lm)
    more: list[str | Path] = ["--bandwidth", "3", "--format", "encodec", *options]
    assert command("encode", tmp_path / "in.wav", tmp_path / "out.ecdc", checkpoints[name], *more) == 0
    data = (tmp_path / "out.ecdc").read_bytes()
    found, decoded = package_reads(model, data, lm, decode=True)
    assert decoded.shape == audio.shape
    assert len(found) == len(frames)
    for (codes, _), (wanted, _) in zip(found, frames, strict=True):
        assert (codes == wanted).float().mean() > 0.99  # all but ties that rounding decides
    assert data[: data.index(b"}")] == theirs[: theirs.index(b"}")]
    if lm is None:
        assert len(data) == len(theirs)
    for content, segments in ((theirs, frames), (data, found)):
        (tmp_path / "in.ecdc").write_bytes(content)
        assert command("decode", tmp_path / "in.ecdc", tmp_path / "back.wav", checkpoints[name], *options) == 0
        back, rate = soundfile.read(tmp_path / "back.wav", dtype="float32", always_2d=True)
        assert rate == model.sample_rate
        ours = codec.decode([EncodedSegment(c, s if s is None else s.view(1)) for c, s in segments], samples)[0]
        np.testing.assert_allclose(back.T, ours.clamp(-1, 1).numpy(), atol=0.51 / 32768 + 1e-5)
    np.testing.assert_allclose(ours.numpy(), decoded.numpy(), atol=1e-4)
    assert run("info", tmp_path / "in.ecdc") == 0
    table = capsys.readouterr().out
    assert f"{name}, weights not named" in table
    assert f"{samples} samples" in table
    assert ("yes: --lm is needed" in table) == compressed


def test_a_part_of_a_file_with_segments_is_what_the_whole_has_there(
    models: dict[str, EncodecModel], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    frames = random_frames(models["encodec_48khz"], 150_000, 2)
    (tmp_path / "in.ecdc").write_bytes(written("encodec_48khz", frames, 150_000, None))
    checkpoint = checkpoints["encodec_48khz"]
    assert command("decode", tmp_path / "in.ecdc", tmp_path / "all.wav", checkpoint) == 0
    part = ["--start", "2.5", "--duration", "0.25"]
    assert command("decode", tmp_path / "in.ecdc", tmp_path / "part.wav", checkpoint, *part) == 0
    whole = soundfile.read(tmp_path / "all.wav", dtype="int16")[0]
    assert len(whole) == 150_000
    np.testing.assert_array_equal(soundfile.read(tmp_path / "part.wav", dtype="int16")[0], whole[120_000:132_000])


def test_a_file_that_arrives_byte_by_byte_is_recognised(checkpoints: dict[str, Path]) -> None:
    codes = torch.randint(1024, (2, 3))
    data = EncodecHeader("encodec_24khz", 900, 2, False).to_bytes() + segment_bytes([codes], None, None)
    reading, writing = os.pipe()

    def dribble() -> None:
        for byte in data:
            os.write(writing, bytes([byte]))
        os.close(writing)

    thread = threading.Thread(target=dribble)
    thread.start()
    with os.fdopen(reading, "rb") as file:
        reader = FileCodec(Codec.load(checkpoints["encodec_24khz"])).open_encoded(file, "pipe")
        (block,) = reader.blocks()
    thread.join()
    assert isinstance(reader, EncodecReader)
    assert reader.bytes_read == len(data)
    assert torch.equal(torch.from_numpy(block.codes.copy()), codes)


def test_no_audio_makes_a_file_that_only_we_read(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, channels in (("encodec_24khz", 1), ("encodec_48khz", 2)):
        soundfile.write(tmp_path / "in.wav", np.zeros((0, channels)), OFFICIAL[name].sample_rate)
        file, back = tmp_path / "out.ecdc", tmp_path / "back.wav"
        assert command("encode", tmp_path / "in.wav", file, checkpoints[name], "--format", "encodec") == 0
        assert "the encodec package itself fails on files of 0 samples" in capsys.readouterr().out
        assert command("decode", file, back, checkpoints[name]) == 0
        assert len(soundfile.read(back)[0]) == 0


Refusal = tuple[Callable[[Path, dict[str, Path]], list[str | Path]], str]
REFUSALS: dict[str, Refusal] = {
    "lm_needed": (
        lambda here, _: ["decode", here / "lm.ecdc", here / "new.wav"],
        "is compressed with the language model of encodec_24khz: give its weights with --lm",
    ),
    "other_model": (
        lambda here, _: ["decode", here / "48.ecdc", here / "new.wav"],
        "was encoded with encodec_48khz, but the model given is encodec_24khz",
    ),
    "lm_missing": (
        lambda here, _: ["decode", here / "lm.ecdc", here / "new.wav", "--lm", here / "none.th"],
        "no language model at",
    ),
    "lm_of_the_other": (
        lambda here, lm: ["decode", here / "lm.ecdc", here / "new.wav", "--lm", lm["encodec_48khz"]],
        "no language model for 32 codebooks of 1024 codes: emb.16.weight should be [1025, 200], is missing",
    ),
    "lm_damaged": (
        lambda here, _: ["decode", here / "lm.ecdc", here / "new.wav", "--lm", here / "lm.ecdc"],
        "torch refuses it",
    ),
    "lm_in_our_format": (
        lambda here, lm: ["encode", here / "in.wav", here / "new.wav", "--lm", lm["encodec_24khz"]],
        "give --format encodec too",
    ),
    "blocks": (
        lambda here, _: ["encode", here / "in.wav", here / "new.wav", "--format", "encodec", "--block-frames", "2"],
        "has no blocks",
    ),
    "architecture": (
        lambda here, _: ["encode", here / "in.wav", here / "new.wav", "--format=encodec", "--checkpoint", here / "t"],
        "encodec_24khz has filters 32, this model has 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_the_command_refuses_in_one_line(
    case: str, checkpoints: dict[str, Path], lms: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lm.ecdc").write_bytes(with_header(GOOD | {"lm": True}))
    (tmp_path / "48.ecdc").write_bytes(with_header(GOOD | {"m": "encodec_48khz"}))
    soundfile.write(tmp_path / "in.wav", np.zeros(1_000), 24_000)
    (tmp_path / "t").mkdir()
    Codec(CodecConfig(filters=4, lstm_layers=0)).save(tmp_path / "t" / "model.safetensors")
    make, message = REFUSALS[case]
    arguments = make(tmp_path, {name: path for name, (_, _, path) in lms.items()})
    if "--checkpoint" not in arguments:
        arguments += ["--checkpoint", checkpoints["encodec_24khz"]]
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("codec: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("new*"))


def test_a_language_model_with_a_weight_that_is_no_number_is_refused(lms: dict[str, Any], tmp_path: Path) -> None:
    state = lms["encodec_48khz"][0].state_dict()
    torch.save(state | {"transformer.norm_in.bias": torch.full((200,), float("nan"))}, tmp_path / "nan.th")
    with pytest.raises(ValueError, match=r"transformer\.norm_in\.bias holds a number that is not finite"):
        read_encodec_lm(tmp_path / "nan.th", OFFICIAL["encodec_48khz"])
    torch.save([1], tmp_path / "list.th")
    with pytest.raises(ValueError, match="names with a tensor each are wanted"):
        read_encodec_lm(tmp_path / "list.th", OFFICIAL["encodec_48khz"])


def test_a_process_refuses_half_of_what_is_decoded_whole(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    codes = torch.randint(1024, (2, 75))
    data = EncodecHeader("encodec_24khz", 24_000, 2, False).to_bytes() + segment_bytes([codes], None, None)
    (tmp_path / "whole.ecdc").write_bytes(data)
    (tmp_path / "half.ecdc").write_bytes(data[: len(data) // 2])
    checkpoint = checkpoints["encodec_24khz"]
    assert command("decode", tmp_path / "whole.ecdc", tmp_path / "whole.wav", checkpoint) == 0
    assert len(soundfile.read(tmp_path / "whole.wav")[0]) == 24_000
    arguments = ["decode", "half.ecdc", "half.wav", "--checkpoint", str(checkpoint), "--device", "cpu"]
    refused = subprocess.run(
        [sys.executable, "-m", "codec", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert refused.returncode == 1
    assert refused.stderr == "codec: half.ecdc is truncated or damaged: it ends before its content does\n"
    assert not (tmp_path / "half.wav").exists()
