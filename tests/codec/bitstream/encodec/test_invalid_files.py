"""Truncated, corrupt and impossible files of the encodec package, and codecs of other architectures."""

import io
import json
import os
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from encodec.model import LMModel
from torch import Tensor

from codec.bitstream import BitstreamError
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.header import PACKAGE_CONFIGS, EncodecHeader, package_model_name
from codec.bitstream.encodec.language_model import EncodecLM
from codec.bitstream.encodec.segments import EncodecReader, segment_bytes
from codec_inputs import seanet_config
from encodec_package import Frames, language_models, read, written

NAMES = list(PACKAGE_CONFIGS)


@pytest.fixture(scope="module")
def lms() -> dict[str, tuple[LMModel, EncodecLM]]:
    return language_models()


def small_files(lms: dict[str, Any]) -> Iterator[tuple[bytes, Any]]:
    """Complete files of about ten bytes of codes, and the language model that they need."""
    for name, samples in (("encodec_24khz", 900), ("encodec_48khz", 700), ("encodec_48khz", 47_530)):
        length, stride = (48_000, 47_520) if name == "encodec_48khz" else (samples, samples)
        frames: Frames = [
            (torch.randint(1024, (1, 1, -(-min(length, samples - s) // 320))), torch.ones(1) if length > 900 else None)
            for s in range(0, samples, stride)
        ]
        yield written(name, frames, samples, None), None
        if samples < 1_000:
            yield written(name, frames, samples, lms[name][1]), lms[name][1]


def test_every_truncation_is_refused(lms: dict[str, Any]) -> None:
    for data, lm in small_files(lms):
        read(data, lm)
        for end in range(len(data)):
            with pytest.raises(BitstreamError, match=r"^file [^\n]*$"):
                read(data[:end], lm)
        with pytest.raises(BitstreamError, match="bytes follow its end"):
            read(data + b"\0", lm)


def test_files_with_a_flipped_bit_are_read_or_refused(lms: dict[str, Any]) -> None:
    refused = 0
    for data, lm in small_files(lms):
        start = 9 + struct.unpack(">I", data[5:9])[0]
        bits = [*range(8 * start), *range(8 * start, 8 * len(data), 1 if len(data) < 150 else 37)]
        for bit in bits[:: 3 if lm else 1]:
            corrupt = bytearray(data)
            corrupt[bit // 8] ^= 1 << bit % 8
            try:
                read(bytes(corrupt), lm)
            except BitstreamError:
                refused += 1
    assert refused > 1000


def file_with_header(text: bytes | dict[str, Any], body: bytes = bytes(100), length: int | None = None) -> bytes:
    text = json.dumps(text).encode() if isinstance(text, dict) else text
    return struct.pack(">4sBI", b"ECDC", 0, len(text) if length is None else length) + text + body


GOOD: dict[str, Any] = {"m": "encodec_24khz", "al": 320, "nc": 2, "lm": False}


def file_with_scale(scale: float) -> bytes:
    return file_with_header(GOOD | {"m": "encodec_48khz"}, struct.pack(">f", scale) + bytes(3))


INVALID: dict[str, tuple[bytes, str]] = {
    "version": (b"ECDC\x01" + bytes(50), "does not have the format of the encodec package"),
    "long_header": (file_with_header(b"{}", length=(1 << 32) - 1), "announces 4294967295 bytes, but .* 65536"),
    "header_beyond_the_end": (file_with_header(b"{}", length=60_000), "truncated"),
    "no_json": (file_with_header(b"{"), "is invalid"),
    "no_utf8": (file_with_header(b"\xff\xfe"), "is invalid"),
    "nested": (file_with_header(b"[" * 60_000), "nested too deeply"),
    "no_object": (file_with_header(b"[1]"), "expected a JSON object with m, al, nc and lm"),
    "endless_number": (file_with_header(b'{"al": ' + b"9" * 50_000 + b"}"), "is invalid"),
    "missing": (file_with_header({"m": "encodec_24khz"}), "expected a JSON object with m, al, nc and lm"),
    "model": (file_with_header(GOOD | {"m": "unset"}), "m must be one of encodec_24khz, encodec_48khz, got 'unset'"),
    "model_list": (file_with_header(GOOD | {"m": ["encodec_24khz"]}), "m must be one of"),
    "al_negative": (file_with_header(GOOD | {"al": -1}), "al must be a whole number from 0"),
    "al_fraction": (file_with_header(GOOD | {"al": 320.0}), "al must be a whole number"),
    "al_nan": (file_with_header(GOOD | {"al": float("nan")}), "al must be a whole number"),
    "al_huge": (file_with_header(GOOD | {"al": 1 << 61}), "truncated"),
    "al_huge_segments": (file_with_header(GOOD | {"m": "encodec_48khz", "al": 1 << 61}), "truncated"),
    "al_beyond": (file_with_header(GOOD | {"al": 10**100}), "al must be a whole number"),
    "al_short": (file_with_header(GOOD), "bytes follow its end"),
    "nc_zero": (file_with_header(GOOD | {"nc": 0}), "nc must be a whole number from 1 to 32, got 0"),
    "nc_beyond": (file_with_header(GOOD | {"nc": 33}), "nc must be a whole number from 1 to 32, got 33"),
    "nc_stereo": (file_with_header(GOOD | {"m": "encodec_48khz", "nc": 17}), "nc must be a whole number from 1 to 16"),
    "nc_true": (file_with_header(GOOD | {"nc": True}), "nc must be a whole number"),
    "lm_number": (file_with_header(GOOD | {"lm": 1}), "lm must be true or false, got 1"),
    "lm_missing": (file_with_header(GOOD | {"lm": True}), "language model of encodec_24khz: .*--lm"),
    "scale_nan": (file_with_scale(np.nan), "the scale nan"),
    "scale_infinite": (file_with_scale(np.inf), "scale inf"),
    "scale_huge": (file_with_scale(2.0**64), r"scale 1\.8"),
    "scale_zero": (file_with_scale(0.0), "the scale 0.0"),
    "scale_negative": (file_with_scale(-1), "scale -1.0"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_invalid_files_are_refused_in_one_line_and_little_memory(case: str) -> None:
    data, message = INVALID[case]
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match=message) as caught:
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_largest_rms_of_a_signal_is_the_largest_gain() -> None:
    """An RMS is the square root of a float32. A larger gain is corrupt and would overflow in the decoder."""
    largest = float(torch.tensor(torch.finfo(torch.float32).max).sqrt())
    codes = torch.randint(1024, (2, 3))
    header = EncodecHeader("encodec_48khz", 900, 2, False).to_bytes()
    _, ((_, gain),) = read(header + segment_bytes([codes], largest, None))
    assert gain == largest
    for beyond in (float(np.nextafter(np.float32(largest), np.float32(np.inf))), np.inf, np.nan):
        with pytest.raises(ValueError, match="audio is too loud to encode"):
            segment_bytes([codes], beyond, None)


def test_a_compressed_file_cannot_announce_more_codes_than_its_bits_hold(lms: dict[str, Any]) -> None:
    def never(previous: Tensor | None, num_codebooks: int, state: Any) -> tuple[Tensor, Any]:
        raise AssertionError("nothing must be decoded")

    with pytest.raises(BitstreamError, match="truncated"):
        read(file_with_header(GOOD | {"al": 1 << 40, "lm": True}), never)
    # Random bits are used up soon, whatever length is announced.
    with pytest.raises(BitstreamError, match=r"truncated|stand for no code"):
        read(file_with_header(GOOD | {"al": 320 * 100_000, "lm": True}, os.urandom(100)), lms["encodec_24khz"][1])


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


def test_codes_of_probability_1_are_read() -> None:
    """They take the fewest bits, which the check of the announced length must allow."""

    def certain(previous: Tensor | None, num_codebooks: int, state: Any) -> tuple[Tensor, Any]:
        probabilities = torch.zeros(1024, num_codebooks)
        probabilities[3] = 1
        return probabilities, None

    codes = torch.full((32, 1_000), 3)
    data = EncodecHeader("encodec_24khz", 320_000, 32, True).to_bytes() + segment_bytes([codes], None, certain)
    assert len(data) < 75
    assert torch.equal(torch.cat([block for block, _ in read(data, certain)[1]], -1), codes)


def test_inexact_probabilities_are_noticed_at_the_end_of_the_codes(lms: dict[str, Any]) -> None:
    """Probabilities that differ in their seventh digit, as with another number of threads."""
    exact = lms["encodec_24khz"][1]

    def inexact(previous: Tensor | None, num_codebooks: int, state: Any) -> tuple[Tensor, Any]:
        probabilities, state = exact(previous, num_codebooks, state)
        return probabilities * (1 + 3e-7 * torch.randn_like(probabilities)), state

    found = 0
    for seed in range(6):
        torch.manual_seed(seed)
        codes = torch.randint(1024, (4, 40))
        data = EncodecHeader("encodec_24khz", 12_800, 4, True).to_bytes() + segment_bytes([codes], None, exact)
        try:
            read(data, inexact)
        except BitstreamError as error:
            found += "compressed with another language model, torch version, processor" in str(error)
    assert found >= 5


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"filters": 16}, "encodec_24khz has network.filters 32, this model has 16"),
        (
            {"num_codebooks": 16, "bandwidths_kbps": (6,)},
            "encodec_24khz has quantizer.num_codebooks 32, this model has 16",
        ),
        ({"channels": 2}, "encodec_48khz has sample_rate 48000, this model has 24000"),
        ({"segment_seconds": 1.0}, "encodec_24khz has segment_seconds None, this model has 1.0"),
    ],
)
def test_other_architectures_are_refused_with_the_setting_that_differs(
    changes: dict[str, Any], difference: str
) -> None:
    with pytest.raises(ValueError, match=difference):
        package_model_name(seanet_config(**changes))


def test_the_offered_bandwidths_do_not_matter() -> None:
    assert [package_model_name(config) for config in PACKAGE_CONFIGS.values()] == NAMES
    assert package_model_name(seanet_config(bandwidths_kbps=(3.0,), overlap=0.5)) == "encodec_24khz"
