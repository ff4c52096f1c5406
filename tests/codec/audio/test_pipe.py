"""WAV and raw samples through pipes, in pieces of any size."""

import io
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_bytes import encoded, read_source
from codec.audio import (
    AudioFileError,
    AudioPipe,
    AudioReader,
    RawFormat,
    RawWriter,
    open_audio,
    wav_pipe_writer,
)

WAV_SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")


class Trickle(io.BufferedIOBase):
    """A pipe with a slow writer: each read returns a few bytes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes, self.largest = data, sizes, 0

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        found = min(self.sizes[len(self.data) % len(self.sizes)], size)
        piece, self.data = self.data[:found], self.data[found:]
        self.largest = max(self.largest, size)
        return piece

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        piece, self.data = self.data[:size], self.data[size:]
        self.largest = max(self.largest, size)
        return piece


def wav(audio: np.ndarray, subtype: str = "PCM_16", format_: str = "WAV", sample_rate: int = 24_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, subtype=subtype, format=format_)
    return file.getvalue()


def read(data: bytes, raw: RawFormat | None = None, sizes: tuple[int, ...] = (1 << 20,)) -> np.ndarray:
    return read_source(open_audio(Trickle(data, list(sizes)), "stdin", raw))[0]  # type: ignore[arg-type]


def with_size(data: bytes, size: int) -> bytes:
    """The WAV with another number of bytes in its header."""
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


NOISE = np.random.default_rng(0).uniform(-1, 1, (1001, 2))


@pytest.mark.parametrize("format_", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", WAV_SUBTYPES)
def test_wav_is_read_as_libsndfile_reads_it(subtype: str, format_: str) -> None:
    data = wav(NOISE, subtype, format_)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(read(data, sizes=(1, 2, 3, 5, 700)), expected)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFF024, 0xFFFFFFFE, 0xFFFFFFFF])
def test_an_unknown_length_goes_to_the_end_of_the_pipe(size: int) -> None:
    data = wav(NOISE)
    audio = data[data.index(b"data") + 8 :]
    assert len(audio) == 4004
    np.testing.assert_array_equal(read(with_size(data, size)), read(data))


def test_chunks_after_the_audio_are_read_and_dropped() -> None:
    data = wav(NOISE)
    file = Trickle(data + b"LIST\x04\0\0\0abcd", [1 << 20])
    audio = torch.cat(list(AudioReader(open_audio(file, "stdin"), 24_000, 2).blocks()), -1)
    np.testing.assert_array_equal(audio.T, read(data))
    assert file.data == b""


@pytest.mark.parametrize(
    ("encoding", "data", "expected"),
    [
        ("u8", bytes([0, 128, 255]), [-1, 0, 127 / 128]),
        ("s16le", struct.pack("<3h", -32768, 1, 32767), [-1, 2**-15, 1 - 2**-15]),
        ("s24le", b"\0\0\x80" + b"\1\0\0" + b"\xff\xff\xff", [-1, 2**-23, -(2**-23)]),
        ("s32le", struct.pack("<2i", -(1 << 31), 1 << 30), [-1, 0.5]),
        ("f32le", struct.pack("<2f", -3.5, 0.25), [-3.5, 0.25]),
        ("f64le", struct.pack("<2d", 0.1, -1), [np.float32(0.1), -1]),
    ],
)
def test_raw_samples_of_every_encoding(encoding: str, data: bytes, expected: list[float]) -> None:
    raw = RawFormat.parse(f"16000:1:{encoding}")
    assert raw == (16_000, 1, encoding)
    np.testing.assert_array_equal(read(data, raw, (1,))[:, 0], np.array(expected, np.float32))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.integers(0, 500))
def test_the_sizes_of_the_pieces_do_not_matter(sizes: list[int], samples: int) -> None:
    audio = NOISE[:samples].astype("<f4")
    got = read(audio.tobytes(), RawFormat(8000, 2, "f32le"), tuple(sizes))
    np.testing.assert_array_equal(got, audio)


def test_samples_are_returned_as_soon_as_they_arrive() -> None:
    pipe = AudioPipe(Trickle(struct.pack("<5h", 1, 2, 3, 4, 5), [2, 2, 6, 6, 6]), "stdin", RawFormat(8000, 1, "s16le"))
    assert [len(pipe.read()) for _ in range(3)] == [1, 3, 1]


@pytest.mark.parametrize(
    "text",
    ["", "24000", "24000:1", "24000:1:mp3", "0:1:s16le", "24000:0:s16le", "24000:9999:s16le", "-1:1:u8", "24000:1:u8:"],
)
def test_invalid_descriptions_of_raw_samples_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"RATE:CHANNELS:u8\|s16le\|s24le\|s32le\|f32le\|f64le, got "):
        RawFormat.parse(text)


def format_chunk(tag: int = 1, channels: int = 1, rate: int = 24_000, frame_bytes: int = 2, bits: int = 16) -> bytes:
    return b"fmt " + struct.pack("<IHHIIHH", 16, tag, channels, rate, 0, frame_bytes, bits)


def riff(*chunks: bytes) -> bytes:
    return b"RIFF\xff\xff\xff\xffWAVE" + b"".join(chunks)


DATA = b"data" + struct.pack("<I", 4) + bytes(4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "stdin: is empty"),
        (b"RIFF", "not audio.*--raw"),
        (b"fLaC" + bytes(20), "stdin: not audio"),
        (riff(), "not audio"),
        (riff(format_chunk()), "not audio"),
        (riff(DATA), "not audio"),
        (riff(b"fmt " + struct.pack("<I", 4) + bytes(4), DATA), "not audio"),
        (riff(format_chunk(tag=99, bits=8), DATA), "not audio"),
        (riff(format_chunk(channels=0, frame_bytes=0), DATA), "not audio"),
        (riff(format_chunk(rate=0), DATA), "not audio|sample rate"),
        (riff(b"junk\xff\xff\xff\xff" + bytes(100)), "not audio"),
    ],
    ids=range(11),
)
def test_pipes_without_audio_are_refused_as_files_are(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(AudioFileError, match=message) as by_pipe:
        read(data)
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(AudioFileError) as by_name:
        open_audio(tmp_path / "a.wav")
    assert by_name.value.reason.split(" (")[0] in by_pipe.value.reason or not data


@pytest.mark.parametrize("format_", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("kind", ["fifo", "descriptor"])
def test_named_pipes_and_descriptors_are_read_as_files(tmp_path: Path, kind: str, format_: str) -> None:
    data = encoded(NOISE, format_)
    (tmp_path / "file").write_bytes(data)
    expected, _ = read_source(open_audio(tmp_path / "file"))
    opened = []
    if kind == "fifo":
        os.mkfifo(tmp_path / "pipe")
        path, target = tmp_path / "pipe", tmp_path / "pipe"
    else:  # as for process substitution and /dev/stdin
        reading, writing = os.pipe()
        opened = [reading]
        path, target = Path(f"/dev/fd/{reading}"), writing
    writer = threading.Thread(target=_write, args=(target, data))
    writer.start()
    samples, notes = read_source(open_audio(path))
    writer.join()
    for descriptor in opened:
        os.close(descriptor)
    np.testing.assert_array_equal(samples, expected)
    assert notes == []


def _write(target: Path | int, data: bytes) -> None:
    with open(target, "wb") as file:
        file.write(data)


@pytest.mark.parametrize(("name", "said"), [("absent", "no such file"), ("folder", "is a folder")])
def test_what_is_no_file_and_no_pipe_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    for raw in (None, RawFormat(8000, 1, "s16le")):
        with pytest.raises(AudioFileError, match=f"{name}: {said}"):
            open_audio(tmp_path / name, raw=raw)


def test_raw_samples_of_a_file_are_closed_with_a_note_on_the_last_byte(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(struct.pack("<3h", 1, 2, 3) + b"x")
    samples, notes = read_source(open_audio(tmp_path / "a.raw", raw=RawFormat(8000, 1, "s16le")))
    assert (samples.shape, notes) == ((3, 1), ["The audio ends within a sample of 2 bytes; its last 1 are not used."])


def test_lengths_in_a_header_take_no_memory() -> None:
    pipe = Trickle(riff(b"junk\xf0\xff\xff\xff" + bytes(100)), [1 << 30])
    with pytest.raises(AudioFileError):
        open_audio(pipe, "stdin")
    assert pipe.largest <= 1 << 16


def test_numbers_too_large_for_float32_are_refused() -> None:
    pipe = AudioPipe(Trickle(struct.pack("<2d", 0, 1e300), [16]), "stdin", RawFormat(24_000, 1, "f64le"))
    with pytest.raises(AudioFileError, match=r"stdin: .*NaN or infinite.*frame 1$"):
        list(AudioReader(pipe, 24_000, 1).blocks())


def test_a_wav_written_to_a_pipe_is_read_by_libsndfile_and_by_us() -> None:
    file = io.BytesIO()
    writer = wav_pipe_writer(file, 44_100, 2)
    assert len(file.getvalue()) == 44  # the header does not wait for audio
    audio = torch.from_numpy(NOISE.T * 1.01)
    for piece in audio.split(300, -1):
        writer.write(piece)
    assert writer.samples == 1001
    assert writer.clipped == int((audio.abs() > 1).sum()) > 0
    expected = audio.clamp(-1, 1 - 2**-15).T.numpy()
    got, rate = soundfile.read(io.BytesIO(file.getvalue()), always_2d=True)
    assert rate == 44_100
    for found in (got, read(file.getvalue())):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2**-16)


@pytest.mark.parametrize(("encoding", "dtype"), [("s16le", "<i2"), ("f32le", "<f4")])
def test_raw_samples_are_written_and_floats_are_not_clipped(encoding: str, dtype: str) -> None:
    file = io.BytesIO()
    writer = RawWriter(file, encoding)
    writer.write(torch.tensor([[0.5, 2.0], [-0.25, -1.0]]))
    samples = np.frombuffer(file.getvalue(), dtype)
    if encoding == "f32le":
        assert (samples.tolist(), writer.clipped) == ([0.5, -0.25, 2.0, -1.0], 0)
    else:
        assert (samples.tolist(), writer.clipped) == ([16384, -8192, 32767, -32768], 1)
    with pytest.raises(ValueError, match="s16le or f32le, got 'u8'"):
        RawWriter(file, "u8")
