"""WAV and its relatives with headers that are wrong, unknown or unusual."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_bytes import Pipe, encoded, noise, read_in_all_ways
from codec.audio import AudioFile, AudioFileError, convert_channels, open_audio, read_range
from codec.audio.formats import read_wav_header

NOISE = noise(3000, 2)
WAV, RF64 = encoded(NOISE, "WAV"), encoded(NOISE, "RF64")
EXPECTED = soundfile.read(io.BytesIO(WAV), dtype="float32")[0]
PCM = (EXPECTED * 32768).astype("<i2").tobytes()
PCM_32 = (EXPECTED.astype(np.float64) * 2**31).astype("<i4").tobytes()
PCM_24 = b"".join(PCM_32[i + 1 : i + 4] for i in range(0, len(PCM_32), 4))
TEXT = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.76.100\0"
STARTS = [WAV, RF64, encoded(NOISE, "AU"), encoded(NOISE, "CAF"), encoded(NOISE, "FLAC"), encoded(NOISE, "OGG")]
GUID = bytes.fromhex("000000001000800000aa00389b71")


def with_size(data: bytes, size: int) -> bytes:
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


def with_long_size(data: bytes, size: int) -> bytes:
    """RF64 with another size of its audio."""
    at = data.index(b"ds64") + 8
    return data[:at] + struct.pack("<QQQ", size, size, size) + data[at + 24 :]


def wav(format_chunk: bytes, audio: bytes) -> bytes:
    head = b"WAVEfmt " + struct.pack("<I", len(format_chunk)) + format_chunk + b"data" + struct.pack("<I", len(audio))
    return b"RIFF" + struct.pack("<I", len(head) + len(audio)) + head + audio


def pcm(bits: int, frame_bytes: int, audio: bytes, valid: int | None = None, mask: int = 3, channels: int = 2) -> bytes:
    """A WAV; extensible if the number of valid bits is given."""
    tag = 1 if valid is None else 0xFFFE
    chunk = struct.pack("<HHIIHH", tag, channels, 24_000, 24_000 * frame_bytes, frame_bytes, bits)
    return wav(chunk if valid is None else chunk + struct.pack("<HHIH", 22, valid, mask, 1) + GUID, audio)


@pytest.mark.parametrize(
    "data",
    [
        WAV,
        *[with_size(WAV, size) for size in (0, 0x7FFFF000, 0x7FFFF024, 0xFFFFFFFF)],
        with_size(WAV[:4] + bytes(4) + WAV[8:], 0),
        WAV + TEXT,
        with_size(WAV + TEXT, 0),
        with_size(WAV + TEXT, 0xFFFFFFFF),
        RF64,
        *[with_long_size(RF64, size) for size in (0, (1 << 64) - 1)],
        with_size(with_long_size(RF64, 0), 0),
        b"BW64" + RF64[4:],
        b"ID3\3\0\0\0\0\1\0" + bytes(128) + WAV,
        b"ID3\3\0\0\0\0\1\0" + bytes(128) + with_size(WAV, 0),
        encoded(NOISE, "WAVEX"),
        encoded(NOISE, "WAV", endian="BIG"),
        *[pcm(16, frame_bytes, PCM) for frame_bytes in (0, 1, 3, 8)],
        pcm(24, 6, PCM_24),
        pcm(20, 6, PCM_24),
        pcm(24, 8, PCM_32),
        pcm(20, 8, PCM_32),
        pcm(24, 6, PCM_24, valid=20),
        pcm(32, 8, PCM_32, valid=24),
        pcm(24, 8, PCM_32, valid=24),
    ],
    ids=range(29),
)
def test_all_samples_are_read_by_name_and_by_pipe(tmp_path: Path, data: bytes) -> None:
    samples, notes = read_in_all_ways(tmp_path / "a.wav", data)
    np.testing.assert_array_equal(samples, EXPECTED)
    assert notes == []


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"])
@pytest.mark.parametrize("size", [None, 0])
def test_compressed_codings_are_read_as_by_libsndfile(tmp_path: Path, subtype: str, size: int | None) -> None:
    data = encoded(NOISE[:, :1], "WAV", subtype)
    expected = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]
    samples, notes = read_in_all_ways(tmp_path / "a.wav", data if size is None else with_size(data, size))
    np.testing.assert_array_equal(samples, expected)
    assert notes == []


@pytest.mark.parametrize(
    ("data", "samples", "said"),
    [
        (WAV[:-1003], 2749, ["has 10997 bytes, its header states 12000", "4 bytes; its last 1 are not"]),
        (with_size(WAV, 4000), 1000, ["8000 bytes follow the 4000 bytes of audio"]),
        (WAV + bytes(100), 3000, ["100 bytes follow the 12000 bytes"]),
        (with_size(WAV + b"x", 12001), 3000, ["4 bytes; its last 1 are not used"]),
        (with_size(WAV + b"x", 0), 3000, ["4 bytes; its last 1 are not used"]),
        (with_size(WAV[:44] + TEXT, 0), 0, []),
        (with_size(WAV[:44], 0), 0, []),
    ],
)
def test_what_is_missing_or_not_read_is_said(tmp_path: Path, data: bytes, samples: int, said: list[str]) -> None:
    found, notes = read_in_all_ways(tmp_path / "a.wav", data)
    np.testing.assert_array_equal(found, EXPECTED[:samples])
    assert len(notes) == len(said)
    for note, part in zip(notes, said, strict=True):
        assert part in note


def test_text_behind_audio_of_unknown_length_is_found_wherever_reads_end(tmp_path: Path) -> None:
    for samples in range(100, 1100, 37):  # the pipe returns 1000 bytes at a time
        found, _ = read_in_all_ways(tmp_path / "a.wav", with_size(WAV[: 44 + 4 * samples] + TEXT, 0xFFFFFFFF))
        np.testing.assert_array_equal(found, EXPECTED[:samples])


def test_bytes_that_begin_like_text_are_audio(tmp_path: Path) -> None:
    audio = b"LISTLIST" * 50 + b"id3 LIST1234INFLIST"
    samples, _ = read_in_all_ways(tmp_path / "a.wav", with_size(WAV[:44] + audio, 0xFFFFFFFF))
    assert samples.shape == (len(audio) // 4, 2)


@pytest.mark.parametrize(
    ("mask", "names"), [(0x107, "FL FR FC BC"), (0x33, "FL FR BL BR"), (0xF, "FL FR FC LFE"), (0, "FL FR BL BR")]
)
def test_a_channel_mask_names_the_channels(tmp_path: Path, mask: int, names: str) -> None:
    audio = (np.eye(4) * 16384).astype("<i2")
    data = pcm(16, 8, audio.tobytes(), valid=16, mask=mask, channels=4)
    (tmp_path / "a.wav").write_bytes(data)
    mixed = read_range(tmp_path / "a.wav", 24_000, 2)
    assert torch.equal(mixed, convert_channels(0.5 * torch.eye(4), 2, names.split()))
    for source in (tmp_path / "a.wav", Pipe(data)):
        opened = open_audio(source, "a")
        assert opened.layout == (tuple(names.split()) if mask else None)
        opened.close()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_any_bytes_are_audio_or_an_error(data: st.DataObject) -> None:
    """A header with some bytes changed, or any bytes behind a right start."""
    header = bytearray(
        data.draw(st.sampled_from([WAV, RF64, encoded(NOISE[:10], "AU"), encoded(NOISE[:10], "CAF")]))[:150]
    )
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(header) - 1))
        header[at : at + 1] = data.draw(st.binary(min_size=0, max_size=4))
        if not header:
            break
    content = bytes(header[: data.draw(st.integers(0, 150))])
    read_wav_header(io.BytesIO(content))
    for source in (io.BytesIO(content), Pipe(content)):
        try:
            audio = open_audio(source, "a")
            for _ in range(100):
                if not len(audio.read()):
                    break
            assert isinstance(audio.notes, list)
            audio.close()
        except AudioFileError:
            pass
    with pytest.raises(AudioFileError):
        AudioFile(io.BytesIO(b"RIFF" + content[4:8]), "a")
