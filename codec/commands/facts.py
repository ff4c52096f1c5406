"""What is known about an encoded file, a model or an audio file: values for programs, and lines for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from codec.audio import AudioFile, AudioReader, readable
from codec.bitstream import BitstreamReader
from codec.bitstream.encodec.header import PACKAGE_CONFIGS
from codec.bitstream.encodec.segments import EncodecReader
from codec.coding import bitrate_kbps
from codec.model import Codec
from codec.model_file import fingerprint
from codec.models import find_model, model_name

__all__ = ["Facts", "of_audio", "of_encodec_file", "of_encoded_file", "of_model"]


class Facts(NamedTuple):
    """A description of a file.

    Attributes:
        values: For JSON; `kind` is `encoded`, `encodec`, `model` or `audio`.
        rows: For a table.
        notes: What may surprise.
    """

    values: dict[str, Any]
    rows: dict[str, str]
    notes: list[str]


def of_encoded_file(reader: BitstreamReader, size: int) -> Facts:
    """Checks an encoded file to its end.

    Raises:
        BitstreamError: The file is corrupt.
    """
    blocks = [(block.frames, len(block.data)) for block in reader.stored_blocks()]
    frames, code_bytes = sum(frames for frames, _ in blocks), sum(size for _, size in blocks)
    header, samples = reader.header, reader.samples or 0
    path = find_model(header.model)
    values = _signal(samples, header.sample_rate, header.channels, size)
    fixed_bytes = header.block_bytes(frames)
    rows = {
        "encoded with": f"{header.model}, not found" if path is None else f"{model_name(path)} ({header.model})",
        "length": _length(values),
        "size": _size(values),
        "codes": f"{_count(header.num_codebooks, 'codebook')} of {header.bits_per_code} bits, "
        f"{_count(frames, 'frame')} of {header.hop_samples} samples in {_count(len(blocks), 'block')}",
        "coding": _coding(header.coding, header.entropy_model, code_bytes, fixed_bytes),
        "source": f"{header.source_sample_rate} Hz, {_count(header.source_channels, 'channel')}",
    }
    values |= {
        "fingerprint": header.model, "model": None if path is None else str(path), "codebooks": header.num_codebooks,
        "bits_per_code": header.bits_per_code, "frames": frames, "hop_samples": header.hop_samples,
        "blocks": len(blocks), "coding": header.coding, "entropy_model": header.entropy_model,
        "code_bytes": code_bytes, "fixed_code_bytes": fixed_bytes, "source_sample_rate": header.source_sample_rate,
        "source_channels": header.source_channels,
    }  # fmt: skip
    return Facts({"kind": "encoded"} | values, rows, [])


def of_encodec_file(reader: EncodecReader, size: int) -> Facts:
    """Checks a file in the format of the encodec package, as far as that is possible without its language model.

    Raises:
        BitstreamError: The file is corrupt.
    """
    header = reader.header
    if not header.is_compressed:  # compressed codes cannot be checked without the language model
        for _ in reader.blocks():
            pass
    config = PACKAGE_CONFIGS[header.model]
    values = _signal(header.samples, config.sample_rate, config.channels, size)
    rows = {
        "format": "of the encodec package (ECDC version 0)",
        "encoded with": f"{header.model}, the file does not identify the weights",
        "length": _length(values),
        "size": _size(values),
        "codes": f"{_count(header.num_codebooks, 'codebook')} of {config.bits_per_code} bits in "
        f"{_count(header.segments, 'segment')}",
        "language model": "yes, decoding needs --lm" if header.is_compressed else "no",
    }
    values |= {"architecture": header.model, "codebooks": header.num_codebooks, "bits_per_code": config.bits_per_code,
               "segments": header.segments, "language_model": header.is_compressed}  # fmt: skip
    return Facts({"kind": "encodec"} | values, rows, [])


def of_model(codec: Codec, path: Path) -> Facts:
    """Describes a codec, which was loaded from `path`."""
    config, found = codec.config, fingerprint(codec)
    weights = sum(parameter.numel() for parameter in codec.parameters())
    sizes = ", ".join(map(str, sorted(set(config.codebook_sizes))))
    rows = {
        "model": f"{found} ({readable(path)})",
        "audio": f"{config.sample_rate} Hz, {_count(config.channels, 'channel')}"
        + (", normalized to its RMS" if config.normalize else ""),
        "network": _settings(config.network),
        "quantizer": _settings(config.quantizer),
        "frames": f"{config.frame_rate_hz} Hz, {config.hop_samples} samples each",
        "codebooks": f"{config.num_codebooks} of {sizes} codes, {config.kbps_per_codebook:g} kbit/s each",
        "bitrates": ", ".join(f"{b:g}" for b in config.bandwidths_kbps) + " kbit/s",
        "streams": "yes" if config.causal else "no",
        "segments": "none" if config.segment_seconds is None else f"{config.segment_seconds:g} s",
        "parameters": f"{weights / 1e6:.2f} million in encoder and decoder",
    }
    values = {"kind": "model", "fingerprint": found, "model": str(path), "parameters": weights,
              "config": config.to_dict()}  # fmt: skip
    return Facts(values, rows, [])


def of_audio(path: Path) -> Facts:
    """Reads an audio file to its end.

    Raises:
        AudioFileError: The file is not audio, or is corrupt.
    """
    file = AudioFile(path)
    reader = AudioReader(file, file.sample_rate, file.channels)  # which closes the file
    samples = sum(block.shape[-1] for block in reader.blocks())
    values = _signal(samples, reader.sample_rate, reader.channels, path.stat().st_size)
    return Facts({"kind": "audio"} | values, {"length": _length(values), "size": _size(values)}, list(reader.notes))


def _signal(samples: int, sample_rate: int, channels: int, size: int) -> dict[str, Any]:
    seconds = samples / sample_rate
    return {"seconds": seconds, "samples": samples, "sample_rate": sample_rate, "channels": channels, "bytes": size,
            "kbps": bitrate_kbps(size, seconds)}  # fmt: skip


def _length(values: Mapping[str, Any]) -> str:
    samples = f"{values['samples']} samples at {values['sample_rate']} Hz"
    return f"{values['seconds']:.2f} s ({samples}, {_count(values['channels'], 'channel')})"


def _size(values: Mapping[str, Any]) -> str:
    return f"{values['bytes']} bytes, {values['kbps']:.2f} kbit/s"


def _coding(coding: str, entropy_model: str | None, code_bytes: int, fixed_bytes: int) -> str:
    text = coding if entropy_model is None else f"{coding} with entropy model {entropy_model}"
    if coding == "fixed" or fixed_bytes == 0:
        return text
    change = 100 * (1 - code_bytes / fixed_bytes)
    return f"{text}: {code_bytes} bytes, {abs(change):.1f} % {'less' if change >= 0 else 'more'} than fixed"


def _settings(part: Mapping[str, Any]) -> str:
    settings = (
        f"{name} ({_settings(value)})" if isinstance(value, Mapping) else f"{name} {value}"
        for name, value in part.items()
        if name != "name"
    )
    return f"{part['name']}: {', '.join(settings)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
