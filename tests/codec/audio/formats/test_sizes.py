"""AU, CAF, AIFF, W64, NIST and others whose header states a wrong length."""

import struct
from pathlib import Path

import numpy as np
import pytest

from audio_bytes import encoded, noise, read_in_all_ways

NOISE = noise(3000, 2)
AU, CAF = encoded(NOISE, "AU"), encoded(NOISE, "CAF")


def caf_with_size(size: int) -> bytes:
    at = CAF.index(b"data") + 4
    return CAF[:at] + struct.pack(">q", size) + CAF[at + 8 :]


@pytest.mark.parametrize(
    "data",
    [
        AU[:8] + b"\xff" * 4 + AU[12:],
        AU[:8] + bytes(4) + AU[12:],
        encoded(NOISE, "AU", endian="LITTLE").replace(struct.pack("<I", 12_000), bytes(4), 1),
        caf_with_size(-1),
        caf_with_size(0),
        encoded(NOISE, "AIFF").replace(b"SSND" + struct.pack(">I", 12_008), b"SSND" + bytes(4)),
        encoded(NOISE, "W64").replace(struct.pack("<Q", 12_024), bytes(8), 1),
    ],
    ids=["au", "au_0", "au_little", "caf", "caf_0", "aiff", "w64"],
)
def test_audio_of_unknown_length_is_read_to_its_end(tmp_path: Path, data: bytes) -> None:
    samples, notes = read_in_all_ways(tmp_path / "a", data)
    expected, _ = read_in_all_ways(tmp_path / "b", encoded(NOISE, "WAV"))
    np.testing.assert_array_equal(samples[:3000], expected)
    assert len(samples) in (3000, 3002)  # libsndfile takes 4 bytes behind the audio of a CAF as audio
    assert notes == []


@pytest.mark.parametrize("format_", ["AU", "AIFF", "W64", "VOC", "NIST", "AVR", "MPC2K"])
def test_a_truncated_file_is_read_with_a_note(tmp_path: Path, format_: str) -> None:
    whole, notes = read_in_all_ways(tmp_path / "a", encoded(NOISE, format_))
    assert (len(whole), notes) == (3000, [])
    samples, notes = read_in_all_ways(tmp_path / "a", encoded(NOISE, format_)[:-1600])
    np.testing.assert_array_equal(samples, whole[: len(samples)])
    assert 2500 < len(samples) < 2700
    assert len(notes) == 1
    assert "its header states" in notes[0]


def test_bytes_behind_the_audio_are_said(tmp_path: Path) -> None:
    samples, notes = read_in_all_ways(tmp_path / "a", AU[:8] + struct.pack(">I", 4000) + AU[12:])
    assert len(samples) == 1000
    assert notes == ["8000 bytes follow the 4000 bytes of audio that its header states. They are not read."]


def test_a_file_without_audio_is_said(tmp_path: Path) -> None:
    data = encoded(NOISE, "AIFF")
    at = data.index(b"SSND") + 4
    samples, notes = read_in_all_ways(tmp_path / "a", data[:at] + struct.pack(">I", 8) + data[at + 4 :])
    assert (len(samples), notes) == (0, ["The audio ends after 0 of the 3000 samples that its header states."])
    samples, notes = read_in_all_ways(
        tmp_path / "b", data[:22] + bytes(4) + data[26:at] + struct.pack(">I", 8) + data[at + 4 :]
    )
    assert (len(samples), notes) == (0, [f"No audio was found in its {len(data)} bytes."])
