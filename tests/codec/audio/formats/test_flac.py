"""FLAC whose header does not state how many samples there are."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_bytes import encoded, noise, read_in_all_ways

FLAC = encoded(noise(20_000, 2), "FLAC")
WHOLE = soundfile.read(io.BytesIO(FLAC), dtype="float32")[0]


def with_total(data: bytes, total: int) -> bytes:
    """Another number of samples in STREAMINFO."""
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
    return data[:18] + struct.pack(">Q", packed) + data[26:]


@pytest.mark.parametrize(("total", "notes"), [(0, 0), (5000, 0), (1 << 20, 1), ((1 << 36) - 1, 1)])
@pytest.mark.parametrize("around", ["", "id3v1", "id3v2"])
def test_all_samples_are_read_whatever_the_header_states(tmp_path: Path, total: int, notes: int, around: str) -> None:
    data = with_total(FLAC, total) + (b"TAG" + bytes(125) if around == "id3v1" else b"")
    data = (b"ID3\3\0\0\0\0\1\0" + bytes(128) if around == "id3v2" else b"") + data
    samples, said = read_in_all_ways(tmp_path / "a.flac", data)
    np.testing.assert_array_equal(samples, WHOLE)
    assert len(said) == notes
    assert all(f"20000 samples, its header states {total}" in note for note in said)


@pytest.mark.parametrize("total", [0, 20_000])
@pytest.mark.parametrize("kept", [0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_read_to_its_last_whole_frame(tmp_path: Path, total: int, kept: float) -> None:
    samples, notes = read_in_all_ways(tmp_path / "a.flac", with_total(FLAC, total)[: round(kept * len(FLAC))])
    assert len(samples) % 4096 == 0
    assert 0 <= kept * 20_000 - len(samples) < 2 * 4096
    np.testing.assert_array_equal(samples, WHOLE[: len(samples)])
    assert len(notes) == 1
    assert f"The end of the stream is missing: it ends after {len(samples)} samples" in notes[0]


def test_silence_and_variable_block_sizes(tmp_path: Path) -> None:
    data = encoded(np.zeros((50_000, 1)), "FLAC")
    samples, notes = read_in_all_ways(tmp_path / "a.flac", with_total(data, 0))
    assert (samples.shape, notes) == ((50_000, 1), [])
