"""The fuzz targets: tiny codecs of every kind, with valid files in every coding."""

import io
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch
from torch import Tensor

from codec.audio.formats import (
    MpegFrames,
    inspect_au,
    inspect_caf,
    inspect_flac,
    inspect_nist,
    inspect_ogg,
    inspect_wav,
    read_wav_header,
)
from codec.bitstream import BitstreamHeader, BitstreamWriter, Block
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.header import PACKAGE_CONFIGS, EncodecHeader, frames_of
from codec.bitstream.encodec.segments import EncodecReader, segment_bytes
from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyModel
from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig
from codec.coding import PreparedCodec, SampleRange, decode_audio, open_encoded
from codec.model import Codec
from codec.model_file import fingerprint, make_codec, seanet_settings

__all__ = ["Target", "targets"]

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


class Target(NamedTuple):
    """A decoder with valid files."""

    name: str
    files: Sequence[bytes]
    decode: Decode  # raises ValueError for an invalid file; the generator chooses how to read it


class _Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


class _NullSink:
    """An audio sink."""

    clipped = samples = 0

    def write(self, audio: Tensor) -> None:
        self.samples += audio.shape[-1]


def targets() -> list[Target]:
    """A target for each way of decoding, with files of no, one and many frames, few and all codebooks, every coding.

    The first four read version 1 of the format, the next two version 0, which the encodec package writes. The last one
    reads the headers of audio files.
    """
    own = [_own_target(kind, changes) for kind, changes in _KINDS.items()]
    return [*own, *(_encodec_target(name) for name in PACKAGE_CONFIGS), _audio_target()]


def _audio_target() -> Target:
    """The parsers of audio files. libsndfile itself is not fuzzed here."""
    audio = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0)).mul(0.1).numpy()
    files = []
    for format_ in ("WAV", "WAVEX", "RF64", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3"):
        file = io.BytesIO()
        soundfile.write(file, audio, 24_000, format=format_)
        files.append(file.getvalue())

    def decode(rng: random.Random, data: bytes) -> None:
        size = len(data)
        read_wav_header(io.BytesIO(data))
        inspections = (inspect_wav, inspect_flac, inspect_ogg, inspect_au, inspect_caf, inspect_nist)
        found = [finding for inspect in inspections if (finding := inspect(io.BytesIO(data), 0, size)) is not None]
        for view in (view for finding in found for view in finding.views or ()):
            view.read(1 << 16)
        if not found:
            mpeg = MpegFrames(io.BytesIO(data), 0, size)
            start = rng.randrange(max(1, mpeg.frames))
            mpeg.part(start, min(mpeg.frames, start + 1000))

    return Target("audio headers", files, decode)


def _own_target(kind: str, changes: dict[str, Any]) -> Target:
    torch.manual_seed(0)
    prepared = _with_entropy_model(make_codec(seanet_settings(**(_TINY | changes))).eval())
    sample_rate = prepared.codec.config.sample_rate

    def decode(rng: random.Random, data: bytes) -> None:
        reader = open_encoded(prepared, _random_file(rng, data), "file")
        decode_audio(prepared, reader, _NullSink(), _random_range(rng, sample_rate), rng.random() < 0.5)

    sizes = [(0, 1, "fixed"), (1, 1, "fixed"), (400, 1, "fixed"), (400, 3, "fixed"), (1999, 3, "fixed")]
    sizes += [(400, 1, "adaptive"), (1999, 3, "adaptive"), (400, 1, "transformer"), (1999, 3, "transformer")]
    return Target(kind, [_file(prepared, *size) for size in sizes], decode)


def _encodec_target(name: str) -> Target:
    """A model with few channels. The package's format fixes all other settings."""
    torch.manual_seed(0)
    config = PACKAGE_CONFIGS[name]
    settings = config.to_dict()
    small = {"network": settings["network"] | {"filters": 2, "latent_dim": 4}}
    small |= {"quantizer": settings["quantizer"] | {"latent_dim": 4}}
    prepared = PreparedCodec(make_codec(settings | small).eval())

    def decode(rng: random.Random, data: bytes) -> None:
        reader = EncodecReader(ByteSource(_random_file(rng, data)), "file")
        reader.language_model = _language_model
        reader.check_model(config)  # as `open_encoded` does
        part = _random_range(rng, config.sample_rate)
        decode_audio(prepared, reader, _NullSink(), part, rng.random() < 0.5)

    sizes = [(0, 2, False), (1, 2, False), (900, 2, False), (900, config.num_codebooks, False), (48_001, 2, False)]
    sizes += [(0, 2, True), (900, 2, True), (900, config.num_codebooks, True), (48_001, 2, True)]
    return Target(name, [_encodec_file(name, *size) for size in sizes], decode)


def _encodec_file(name: str, samples: int, num_codebooks: int, compressed: bool) -> bytes:
    header = EncodecHeader(name, samples, num_codebooks, compressed)
    config, lm = PACKAGE_CONFIGS[name], _language_model if compressed else None
    body = [
        segment_bytes(
            [torch.randint(config.codebook_size, (num_codebooks, frames_of(length, config)))],
            0.5 if config.normalize else None,
            lm,
        )
        for length in header.segment_samples()
    ]
    return b"".join([header.to_bytes(), *body])


def _language_model(previous: Tensor | None, num_codebooks: int, state: Any) -> tuple[Tensor, Any]:
    """Predicts the codes of the previous frame with a probability of 1/2, so that a code takes at least one bit.

    Shape: previous [K] -> [size, K].
    """
    probabilities = torch.full((1024, num_codebooks), 0.5 / 1024)
    probabilities[
        torch.zeros(num_codebooks, dtype=torch.long) if previous is None else previous, torch.arange(num_codebooks)
    ] += 0.5
    return probabilities, state


def _random_file(rng: random.Random, data: bytes) -> io.BytesIO:
    return rng.choice((io.BytesIO, _Pipe))(data)


def _random_range(rng: random.Random, sample_rate: int) -> SampleRange:
    start, duration = rng.choice((0.0, 0.0, 0.1, 0.5, 1e6)), rng.choice((None, None, 0.01, 1.0))
    return SampleRange.from_seconds(start, duration, sample_rate)


def _with_entropy_model(codec: Codec) -> PreparedCodec:
    config = codec.config
    size = EntropyConfig(config.num_codebooks, config.codebook_size, 20, dim=8, layers=1, heads=2, hidden=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ENTROPY_NAME
        EntropyModel.from_network(CodeTransformer(size), fingerprint(codec)).save(path)
        prepared = PreparedCodec(codec, path)
        prepared.entropy_coders.storage_fields("transformer", 17, prefer_fixed=False)  # loads the model
    return prepared


def _file(prepared: PreparedCodec, samples: int, num_codebooks: int, coding: str) -> bytes:
    """A valid file with blocks of 17 frames and a random access point every two blocks."""
    config = prepared.codec.config
    storage = prepared.entropy_coders.storage_fields(coding, 17, prefer_fixed=False)._replace(random_access_interval=2)
    header = BitstreamHeader(
        prepared.fingerprint, config.sample_rate, config.channels, num_codebooks, config.bits_per_code,
        config.hop_samples, config.normalize, 44_100, 2, *storage,
    )  # fmt: skip
    file = io.BytesIO()
    writer = BitstreamWriter(file, header, prepared.entropy_coders.block_coder(header, "file"))
    audio = torch.randn(1, config.channels, samples)
    segments = prepared.codec.encode_segments(audio, num_codebooks * 0.4) if samples else []
    for segment in segments:
        streams = config.causal and not config.normalize
        for codes in segment.codes[0].split(17, -1) if streams else [segment.codes[0]]:
            writer.write(Block(codes.numpy(), None if segment.gain is None else float(segment.gain)))
    writer.finish(samples)
    return file.getvalue()
