"""Headers of encoded files: versions, invalid values, unknown entries."""

import json
import struct
from typing import Any

import pytest

from bitstream_inputs import HEADER, random_blocks, read, with_checksum, written
from codec.bitstream import BitstreamError

DATA = written(HEADER, random_blocks(HEADER, [5, 2]), 50)


def file_with_header(text: bytes, rest: bytes = b"") -> bytes:
    return with_checksum(struct.pack(">4sBI", b"ECDC", 1, len(text)) + text) + rest


def header_text(**changes: Any) -> bytes:
    (length,) = struct.unpack(">I", DATA[5:9])
    values = json.loads(DATA[9 : 9 + length]) | changes
    return json.dumps({k: v for k, v in values.items() if v is not ...}).encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[1]", "not a JSON object"),
        (b"{", "the header of file is invalid"),
        (b"\xff\xfe", "the header of file is invalid"),
        (b"[" * 60_000, "the header of file is invalid"),
        (b'{"model": ' + b"9" * 20_000 + b"}", "the header of file is invalid"),
        (header_text(channels=...), "it lacks channels"),
        (header_text(bits_per_code=17), "bits_per_code must be a whole number from 1 to 16, got '17'"),
        (header_text(num_codebooks=0), "num_codebooks must be"),
        (header_text(num_codebooks=True), "num_codebooks must be"),
        (header_text(hop_samples=1.5), "hop_samples must be"),
        (header_text(sample_rate=1 << 40), "sample_rate must be"),
        (header_text(sample_rate=float("nan")), "sample_rate must be"),
        (header_text(has_gain=1), "has_gain must be true or false"),
        (header_text(model="../../etc/passwd"), "model must be a fingerprint of 16 hex digits"),
        (header_text(model=None), "model must be a fingerprint"),
        (header_text(coding="range"), "coding must be one of fixed, adaptive, transformer, got 'range'"),
        (header_text(coding=1), "coding must be one of fixed, adaptive, transformer, got '1'"),
        (header_text(coding="transformer"), "entropy_model must be a fingerprint of 16 hex digits, got 'None'"),
        (header_text(entropy_model="0" * 16), "coding fixed has no entropy_model, got '0000000000000000'"),
        (header_text(random_access_interval=0), "random_access_interval must be a whole number from 1 to 65536, got"),
    ],
)
def test_invalid_headers_with_a_correct_checksum_are_refused(text: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        read(file_with_header(text))


def test_unknown_entries_are_ignored() -> None:
    end = with_checksum(struct.pack(">HQQ", 0, 0, 0))
    assert read(file_with_header(header_text(mood="blue"), end)) == (HEADER, [], 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"RIFF" + DATA, "^file is not an encoded file: it does not start with ECDC$"),
        (b"", "^file is not an encoded file"),
        (b"ECDC\x00" + DATA[5:], "format of the encodec package .*version 0"),
        (b"ECDC\x02" + DATA[5:], "^file has version 2 of the format, but this program reads version 1$"),
        (b"ECDC\x01\xff\xff\xff\xff" + DATA[9:], "announces 4294967295 bytes, but the maximum is 65536"),
        (DATA[:60], "^file is truncated"),
    ],
)
def test_messages_name_what_was_found_and_what_was_expected(data: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        read(data)
