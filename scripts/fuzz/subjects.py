"""What the fuzzer tests: tiny codecs of every kind, and files that they decode, in every coding."""

import io
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from codec.bitstream import BitstreamHeader, BitstreamWriter, Block
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.header import PACKAGE_CONFIGS, EncodecHeader, frames_of
from codec.bitstream.encodec.segments import EncodecReader, segment_bytes
from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyModel
from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig
from codec.coding import PreparedCodec, SampleRange, decode_audio, open_encoded
from codec.model import Codec
from codec.model_file import fingerprint, make_codec, seanet_settings

__all__ = ["Subject", "subjects"]

_TINY: dict[str, Any] = {
    "sample_rate": 800,
    "filters": 4,
    "strides": (2, 4),
    "latent_dim": 4,
    "lstm_layers": 1,
    "num_codebooks": 3,
    "codebook_size": 16,
    "bandwidths_kbps": (0.4, 1.2),
}
_KINDS: dict[str, dict[str, Any]] = {
    "stream": {},
    "stream without LSTM": {"lstm_layers": 0, "padding": "constant"},
    "segments": {
        "causal": False,
        "norm": "time_group_norm",
        "normalize": True,
        "channels": 2,
        "segment_seconds": 0.1,
    },
    "in one piece": {"causal": False, "normalize": True},
}

Decode = Callable[[random.Random, bytes], None]


class Subject(NamedTuple):
    """A decoder, and files that it decodes."""

    name: str
    files: Sequence[bytes]
    decode: Decode  # raises ValueError for what is no such file; draws how it is read


class _Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


class _Nowhere:
    """An audio sink."""

    clipped = samples = 0

    def write(self, audio: Tensor) -> None:
        self.samples += audio.shape[-1]


def subjects() -> list[Subject]:
    """One for each way of decoding, with files of no, one and many frames, of few and all books, in every coding.

    The first four read version 1, the last two version 0, that of the encodec package.
    """
    own = [_own_subject(kind, changes) for kind, changes in _KINDS.items()]
    return own + [_encodec_subject(name) for name in PACKAGE_CONFIGS]


def _own_subject(kind: str, changes: dict[str, Any]) -> Subject:
    torch.manual_seed(0)
    prepared = _with_entropy_model(make_codec(seanet_settings(**(_TINY | changes))).eval())
    sample_rate = prepared.codec.config.sample_rate

    def decode(drawn: random.Random, data: bytes) -> None:
        reader = open_encoded(prepared, _drawn_file(drawn, data), "file")
        decode_audio(prepared, reader, _Nowhere(), _drawn_range(drawn, sample_rate), drawn.random() < 0.5)

    sizes = [(0, 1, "fixed"), (1, 1, "fixed"), (400, 1, "fixed"), (400, 3, "fixed"), (1999, 3, "fixed")]
    sizes += [(400, 1, "adaptive"), (1999, 3, "adaptive"), (400, 1, "transformer"), (1999, 3, "transformer")]
    return Subject(kind, [_file(prepared, *size) for size in sizes], decode)


def _encodec_subject(name: str) -> Subject:
    """With layers of few channels: of such a model the package's format knows everything else, and that is kept."""
    torch.manual_seed(0)
    config = PACKAGE_CONFIGS[name]
    settings = config.to_dict()
    small = {"network": settings["network"] | {"filters": 2, "latent_dim": 4}}
    small |= {"quantizer": settings["quantizer"] | {"latent_dim": 4}}
    prepared = PreparedCodec(make_codec(settings | small).eval())

    def decode(drawn: random.Random, data: bytes) -> None:
        reader = EncodecReader(ByteSource(_drawn_file(drawn, data)), "file", _language_model)
        reader.check_model(config)  # as `open_encoded` does
        part = _drawn_range(drawn, config.sample_rate)
        decode_audio(prepared, reader, _Nowhere(), part, drawn.random() < 0.5)

    sizes = [(0, 2, False), (1, 2, False), (900, 2, False), (900, config.num_codebooks, False), (48_001, 2, False)]
    sizes += [(0, 2, True), (900, 2, True), (900, config.num_codebooks, True), (48_001, 2, True)]
    return Subject(name, [_encodec_file(name, *size) for size in sizes], decode)


def _encodec_file(name: str, samples: int, books: int, compressed: bool) -> bytes:
    header = EncodecHeader(name, samples, books, compressed)
    config, lm = PACKAGE_CONFIGS[name], _language_model if compressed else None
    body = [
        segment_bytes(
            [torch.randint(config.codebook_size, (books, frames_of(length, config)))],
            0.5 if config.normalize else None,
            lm,
        )
        for length in header.segment_samples()
    ]
    return b"".join([header.to_bytes(), *body])


def _language_model(before: Tensor | None, books: int, state: Any) -> tuple[Tensor, Any]:
    """Expects the codes of the frame before with a probability of 1/2, so that a bit is the least that one takes.

    Shape: before [K] -> [size, K].
    """
    probabilities = torch.full((1024, books), 0.5 / 1024)
    probabilities[torch.zeros(books, dtype=torch.long) if before is None else before, torch.arange(books)] += 0.5
    return probabilities, state


def _drawn_file(drawn: random.Random, data: bytes) -> io.BytesIO:
    return drawn.choice((io.BytesIO, _Pipe))(data)


def _drawn_range(drawn: random.Random, sample_rate: int) -> SampleRange:
    start, duration = drawn.choice((0.0, 0.0, 0.1, 0.5, 1e6)), drawn.choice((None, None, 0.01, 1.0))
    return SampleRange.from_seconds(start, duration, sample_rate)


def _with_entropy_model(codec: Codec) -> PreparedCodec:
    config = codec.config
    size = EntropyConfig(config.num_codebooks, config.codebook_size, 20, dim=8, layers=1, heads=2, hidden=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ENTROPY_NAME
        EntropyModel.from_network(CodeTransformer(size), fingerprint(codec)).save(path)
        prepared = PreparedCodec(codec, path)
        prepared.entropy_coders.storage_fields("transformer", 17, prefer_fixed=False)  # reads it
    return prepared


def _file(prepared: PreparedCodec, samples: int, num_codebooks: int, coding: str) -> bytes:
    """A valid file, its blocks of 17 frames, two of them from a random access point to the next."""
    config = prepared.codec.config
    storage = prepared.entropy_coders.storage_fields(coding, 17, prefer_fixed=False)._replace(random_access_interval=2)
    header = BitstreamHeader(
        prepared.fingerprint, config.sample_rate, config.channels, num_codebooks, config.bits_per_code,
        config.hop_samples, config.normalize, 44_100, 2, *storage,
    )  # fmt: skip
    file = io.BytesIO()
    writer = BitstreamWriter(file, header, prepared.entropy_coders.block_coder(header, "file"))
    audio = torch.randn(1, config.channels, samples)
    segments = prepared.codec.encode(audio, num_codebooks * 0.4) if samples else []
    for segment in segments:
        streams = config.causal and not config.normalize
        for codes in segment.codes[0].split(17, -1) if streams else [segment.codes[0]]:
            writer.write(Block(codes.numpy(), None if segment.scale is None else float(segment.scale)))
    writer.finish(samples)
    return file.getvalue()
