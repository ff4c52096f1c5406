"""What an evaluation compares: the model, Opus, any other codec through its command, and the recording itself."""

import shlex
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from codec.audio import AudioReader
from codec.bitstream import BitstreamReader
from codec.coding import PreparedCodec, decode_file, encode_file
from codec.evaluation.baselines import code_with_opus, possible_opus_bitrates
from codec.evaluation.codebook_usage import count_codes

__all__ = ["OPUS_KBPS", "Coded", "Coder", "codec_coders", "command_coders", "opus_coders", "recording"]

OPUS_KBPS = (6.0, 12.0, 24.0)
_GAIN_BYTES = 4


class Coded(NamedTuple):
    """One clip, coded and decoded."""

    audio: Tensor  # [C, T], aligned with the clip
    payload_bytes: int | None  # codes and gains, or audio packets: what a file of any length needs; None if unknown
    file_bytes: int | None  # with headers and checksums; None if unknown
    code_counts: Tensor | None = None  # [K, largest codebook size]; None for other codecs


class Coder(NamedTuple):
    """A codec at one bitrate."""

    name: str
    bandwidth_kbps: float | None  # target bitrate; None for a codec without one
    code: Callable[[Tensor], Coded]  # clip [C, T] at the model's sampling rate and channels


def codec_coders(prepared: PreparedCodec, bandwidths_kbps: Sequence[float]) -> list[Coder]:
    """The model at each bandwidth, through files: bitrates are file sizes, and the audio is rounded to 16 bits."""
    return [Coder("codec", kbps, partial(_code_with_codec, prepared, kbps)) for kbps in bandwidths_kbps]


def opus_coders(sample_rate: int, channels: int) -> tuple[list[Coder], list[str]]:
    """Opus at `OPUS_KBPS`, and a note for each bitrate that libsndfile does not offer.

    Args:
        sample_rate: Of the clips in Hz.
    """
    possible, notes = possible_opus_bitrates(OPUS_KBPS, channels)
    return [Coder("opus", kbps, partial(_code_with_opus, sample_rate, kbps)) for kbps in possible], notes


def recording() -> Coder:
    """The clip itself: what metrics give without any loss."""
    return Coder("recording", None, lambda audio: Coded(audio, None, None))


def command_coders(command: str, bitrates_kbps: Sequence[float], sample_rate: int) -> list[Coder]:
    """Any codec with a command line.

    Args:
        command: A line for the shell. `{in}` is a WAV file of 16 bits, `{out}` the audio file that the command makes,
            `{kbps}` the bitrate. If the command writes its encoded file to `{encoded}`, its size is measured.
        bitrates_kbps: One coder for each; ignored if the command has no `{kbps}`.
        sample_rate: Of the clips in Hz.

    Raises:
        ValueError: The command lacks `{in}` or `{out}`.
    """
    if not ("{in}" in command and "{out}" in command):
        raise ValueError(f"expected a command with {{in}} and {{out}}, got {command!r}")
    name = Path(shlex.split(command)[0]).name
    rates = list(bitrates_kbps) if "{kbps}" in command else [None]
    return [Coder(name, kbps, partial(_code_with_command, command, sample_rate, kbps)) for kbps in rates]


def _code_with_codec(prepared: PreparedCodec, bandwidth_kbps: float, audio: Tensor) -> Coded:
    config = prepared.codec.config
    with TemporaryDirectory() as folder:
        original, encoded, decoded = (Path(folder, name) for name in ("original.wav", "encoded.ecdc", "decoded.wav"))
        soundfile.write(original, audio.T.numpy(), config.sample_rate, subtype="FLOAT")
        result = encode_file(original, encoded, prepared, bandwidth_kbps=bandwidth_kbps, coding="fixed", overwrite=True)
        decode_file(encoded, decoded, prepared, overwrite=True)
        payload_bytes, codes = _content(encoded)
        estimate, _ = soundfile.read(decoded, dtype="float32", always_2d=True)
    counts = count_codes(codes[None], config.codebook_sizes[: len(codes)])
    return Coded(torch.from_numpy(estimate.T.copy()), payload_bytes, result.encoded_bytes, counts)


def _content(encoded: Path) -> tuple[int, Tensor]:
    """Bytes of codes and gains in a file, and the codes [K, F]."""
    with encoded.open("rb") as file:
        reader = BitstreamReader(file, str(encoded))
        blocks = [torch.from_numpy(block.codes.copy()) for block in reader.blocks()]
    header = reader.header
    gain_bytes = _GAIN_BYTES * len(blocks) if header.has_gain else 0
    return sum(header.block_bytes(block.shape[1]) for block in blocks) + gain_bytes, torch.cat(blocks, 1)


def _code_with_opus(sample_rate: int, bitrate_kbps: float, audio: Tensor) -> Coded:
    result = code_with_opus(audio, sample_rate, bitrate_kbps)
    return Coded(result.audio, result.payload_bytes, result.file_bytes)


def _code_with_command(command: str, sample_rate: int, bitrate_kbps: float | None, audio: Tensor) -> Coded:
    with TemporaryDirectory() as folder:
        source, encoded, decoded = (Path(folder, name) for name in ("in.wav", "encoded", "out.wav"))
        soundfile.write(source, audio.T.numpy(), sample_rate, subtype="PCM_16")
        line = command.replace("{kbps}", f"{bitrate_kbps or 0:g}")
        for key, path in (("in", source), ("encoded", encoded), ("out", decoded)):
            line = line.replace(f"{{{key}}}", shlex.quote(str(path)))
        done = subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode or not decoded.exists():
            reason = f"exit status {done.returncode}" if done.returncode else "it made no {out}"
            words = " ".join(done.stderr.split())[-200:]
            raise ValueError(f"the command {command!r} failed, {reason}: {words or 'no message'}")
        blocks = list(AudioReader(decoded, sample_rate, audio.shape[0]).blocks())
        encoded_bytes = encoded.stat().st_size if encoded.exists() else None
    estimate = torch.cat(blocks, -1) if blocks else audio[:, :0]
    samples = audio.shape[-1]
    return Coded(F.pad(estimate, (0, max(0, samples - estimate.shape[-1])))[:, :samples], encoded_bytes, encoded_bytes)
