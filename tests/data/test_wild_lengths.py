"""Files whose headers lie about their length: the manifest has what decodes, and training reads all of it."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.audio import AudioReader, read_range
from data import Manifest, SegmentDataset, scan_folder

RATE = 24_000


def noise_then_sine(seconds: int) -> np.ndarray:
    """A quarter of loud noise, then a quiet sine: a variable bit rate differs between them. Shape: -> [T]."""
    quarter = seconds * RATE // 4
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, quarter)
    return np.concatenate([noise, 0.05 * np.sin(np.arange(3 * quarter) * 2 * np.pi * 440 / RATE)])


def second_mp3_frame(data: bytes) -> int:
    """Position of the second frame of an MP3; the first is the Xing frame, with the same four bytes of header."""
    return data.index(data[:2], 4)


def mp3_without_xing_frame(path: Path) -> None:
    with soundfile.SoundFile(path, "w", RATE, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5) as file:
        file.write(noise_then_sine(8))
    data = path.read_bytes()
    assert b"Xing" in data[:200]
    path.write_bytes(data[second_mp3_frame(data) :])


def wav_with_data_size_0(path: Path) -> None:
    soundfile.write(path, noise_then_sine(8), RATE, format="WAV")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 0)
    path.write_bytes(data)


def flac_of_unknown_length(path: Path) -> None:
    soundfile.write(path, noise_then_sine(8), RATE, format="FLAC")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the upper 4 of 36 bits of the number of samples, in STREAMINFO
    data[22:26] = bytes(4)
    path.write_bytes(data)


def ogg_of_two_files(path: Path) -> None:
    soundfile.write(path, noise_then_sine(16)[: 4 * RATE], RATE, format="OGG", subtype="VORBIS")
    path.write_bytes(path.read_bytes() * 2)


@pytest.mark.parametrize(
    ("write", "suffix", "surplus"),
    [
        (mp3_without_xing_frame, ".mp3", 4 * 1152),  # the encoder's delay and padding
        (wav_with_data_size_0, ".wav", 0),
        (flac_of_unknown_length, ".flac", 0),
        (ogg_of_two_files, ".ogg", 0),
    ],
)
def test_a_manifest_has_the_frames_that_decode(
    tmp_path: Path, write: Callable[[Path], None], suffix: str, surplus: int
) -> None:
    path = tmp_path / f"a{suffix}"
    write(path)
    manifest = scan_folder(tmp_path)
    frames = manifest.entries[0].frames
    whole = torch.cat(list(AudioReader(path, RATE, 1).blocks()), -1)
    assert frames == whole.shape[-1]
    assert 0 <= frames - 8 * RATE <= surplus
    torch.testing.assert_close(read_range(path, RATE, 1, frames - RATE), whole[:, -RATE:], rtol=0, atol=2e-5)
    (tmp_path / "all.jsonl").write_text(f'{{"path": "a{suffix}"}}\n')
    assert Manifest.load(tmp_path / "all.jsonl").entries == manifest.entries
    dataset = SegmentDataset(manifest, RATE, 1, 0.5)
    segments = [dataset[index] for index in range(12)]
    assert all(segment.skipped_files == () and segment.audio.shape == (1, RATE // 2) for segment in segments)
