"""`codec info`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codec.bitstream import BitstreamHeader, BitstreamReader
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.header import PACKAGE_CONFIGS, is_encodec_format
from codec.bitstream.encodec.segments import EncodecReader
from codec.bitstream.layout import MAGIC
from codec.coding import bitrate_kbps
from codec.commands.messages import print_table
from codec.model import Codec
from codec.model_file import fingerprint
from codec.models import MODEL_NAME, load, model_path

__all__ = ["add", "describe_model"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    info = commands.add_parser(
        "info",
        help="describe an encoded file or a model",
        description="Checks a whole encoded file, or a model, and describes it.",
    )
    info.add_argument("file", metavar="FILE", type=Path, help=f"encoded file, model file or run folder ({MODEL_NAME})")
    info.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> int:
    path = options.file
    if path.is_file():
        with path.open("rb") as file:
            source = ByteSource(file)
            start = source.peek(len(MAGIC) + 1)
            if is_encodec_format(start):
                _describe_encodec_file(EncodecReader(source, str(path)), path.stat().st_size)
                return 0
            if start.startswith(MAGIC):
                _describe_encoded(BitstreamReader(source, str(path)), path.stat().st_size)
                return 0
    path = model_path(path)
    describe_model(load(path), path)
    return 0


def _describe_encoded(reader: BitstreamReader, size: int) -> None:
    blocks = [(block.frames, len(block.data)) for block in reader.stored_blocks()]
    frames, code_bytes = sum(frames for frames, _ in blocks), sum(size for _, size in blocks)
    header = reader.header
    seconds = (reader.samples or 0) / header.sample_rate
    print_table({
        "encoded with model": header.model,
        "length": f"{seconds:.2f} s ({reader.samples} samples at {header.sample_rate} Hz, "
        f"{_count(header.channels, 'channel')})",
        "size": f"{size} bytes, {bitrate_kbps(size, seconds):.2f} kbps",
        "codes": f"{_count(header.num_codebooks, 'codebook')} of {header.bits_per_code} bits, "
        f"{_count(frames, 'frame')} of {header.hop_samples} samples in {_count(len(blocks), 'block')}",
        "coding": _describe_coding(header, code_bytes, header.block_bytes(frames)),
        "source": f"{header.source_sample_rate} Hz, {_count(header.source_channels, 'channel')}",
    })  # fmt: skip


def _describe_encodec_file(reader: EncodecReader, size: int) -> None:
    header = reader.header
    if not header.is_compressed:  # compressed codes cannot be checked without the language model
        for _ in reader.blocks():
            pass
    config = PACKAGE_CONFIGS[header.model]
    seconds = header.samples / config.sample_rate
    print_table({
        "format": "of the encodec package (ECDC version 0)",
        "encoded with model": f"{header.model}, the file does not identify the weights",
        "length": f"{seconds:.2f} s ({header.samples} samples at {config.sample_rate} Hz, "
        f"{_count(config.channels, 'channel')})",
        "size": f"{size} bytes, {bitrate_kbps(size, seconds):.2f} kbps",
        "codes": f"{_count(header.num_codebooks, 'codebook')} of {config.bits_per_code} bits in "
        f"{_count(header.segments, 'segment')}",
        "language model": "yes, decoding needs --lm" if header.is_compressed else "no",
    })  # fmt: skip


def _describe_coding(header: BitstreamHeader, code_bytes: int, fixed_bytes: int) -> str:
    text = header.coding
    if header.entropy_model is not None:
        text += f" with entropy model {header.entropy_model}"
    if header.coding == "fixed" or fixed_bytes == 0:
        return text
    change = 100 * (1 - code_bytes / fixed_bytes)
    return f"{text}: {code_bytes} bytes, {abs(change):.1f} % {'less' if change >= 0 else 'more'} than fixed"


def describe_model(codec: Codec, path: Path) -> None:
    """Prints the properties of a codec, which was loaded from `path`."""
    config = codec.config
    weights = sum(parameter.numel() for parameter in codec.parameters())
    sizes = ", ".join(map(str, sorted(set(config.codebook_sizes))))
    print_table({
        "model": f"{fingerprint(codec)} ({path})",
        "audio": f"{config.sample_rate} Hz, {_count(config.channels, 'channel')}"
        + (", normalized to its RMS" if config.normalize else ""),
        "network": _settings(config.network),
        "quantizer": _settings(config.quantizer),
        "frames": f"{config.frame_rate_hz} Hz, {config.hop_samples} samples each",
        "codebooks": f"{config.num_codebooks} of {sizes} codes, {config.kbps_per_codebook:g} kbps each",
        "bandwidths": ", ".join(f"{b:g}" for b in config.bandwidths_kbps) + " kbps",
        "causal": "yes" if config.causal else "no",
        "segments": "none" if config.segment_seconds is None else f"{config.segment_seconds:g} s",
        "parameters": f"{weights / 1e6:.2f} million in encoder and decoder",
    })  # fmt: skip


def _settings(part: Mapping[str, Any]) -> str:
    settings = (f"{name} {value}" for name, value in part.items() if name != "name")
    return f"{part['name']}: {', '.join(settings)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
