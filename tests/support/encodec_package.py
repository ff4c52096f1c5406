"""Files of the encodec package, written and read by the package and by this project, with random weights."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from encodec.compress import MODELS, compress_to_file, decompress_from_file
from encodec.model import EncodecModel, LMModel
from torch import Tensor

from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.header import PACKAGE_CONFIGS, EncodecHeader
from codec.bitstream.encodec.language_model import EncodecLM
from codec.bitstream.encodec.segments import EncodecReader, LanguageModel, segment_bytes
from encodec_weights import fill_codebooks, randomize

__all__ = [
    "FRAME_RATES",
    "Frames",
    "language_models",
    "package_models",
    "package_reads",
    "package_writes",
    "random_frames",
    "read",
    "written",
]

FRAME_RATES = {"encodec_24khz": 75, "encodec_48khz": 150}
Frames = list[tuple[Tensor, Tensor | None]]  # codes [1, K, F] and scale of each segment


@cache
def package_models() -> dict[str, EncodecModel]:
    """The package's two models in real size, with random weights."""
    torch.manual_seed(0)
    models = {name: _package_model(name) for name in PACKAGE_CONFIGS}
    for model in models.values():
        fill_codebooks(model, 0.1 * torch.randn(1, model.channels, model.sample_rate))
    return models


@cache
def language_models() -> dict[str, tuple[LMModel, EncodecLM]]:
    """The package's language models with random weights, and ours with the same weights."""
    torch.manual_seed(0)
    models = {}
    for name, config in PACKAGE_CONFIGS.items():
        theirs, ours = _package_lm(name), EncodecLM(config).eval()
        ours.load_state_dict(theirs.state_dict())
        models[name] = theirs, ours
    return models


def _package_model(name: str) -> EncodecModel:
    make = {"encodec_24khz": EncodecModel.encodec_model_24khz, "encodec_48khz": EncodecModel.encodec_model_48khz}[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm` is deprecated", FutureWarning)
        model = make(pretrained=False)
    model.name = name
    for layer in model.quantizer.vq.layers:
        layer._codebook.inited.fill_(1)
    randomize(model)
    return model.eval()


def _package_lm(name: str) -> LMModel:
    """With random weights for which some codes are far likelier than others."""
    num_codebooks = {"encodec_24khz": 32, "encodec_48khz": 16}[name]
    lm = LMModel(num_codebooks, 1024, num_layers=5, dim=200, past_context=int(3.5 * FRAME_RATES[name]))
    with torch.no_grad():
        for layer in lm.linears:
            layer.weight *= 4
    return lm.eval()


def random_frames(model: EncodecModel, samples: int, num_codebooks: int) -> Frames:
    """Random codes in the form that the package's `encode` returns."""
    length, stride = model.segment_length or samples, model.segment_stride or samples
    return [
        (
            torch.randint(1024, (1, num_codebooks, -(-min(length, samples - start) // 320))),
            torch.rand(1, 1) + 0.1 if model.normalize else None,
        )
        for start in range(0, samples, stride)
    ]


def package_writes(model: EncodecModel, frames: Frames, samples: int, lm: LMModel | None) -> bytes:
    """The package's file of these codes."""
    file = io.BytesIO()
    with _replaced(model, encode=lambda audio: frames, get_lm_model=lambda: lm):
        compress_to_file(model, torch.zeros(model.channels, samples), file, use_lm=lm is not None)
    return file.getvalue()


def package_reads(model: EncodecModel, data: bytes, lm: LMModel | None, decode: bool = False) -> tuple[Frames, Tensor]:
    """The codes that the package reads from a file, and the audio [C, T]: zeros unless `decode` is set."""
    found: Frames = []

    def decode_frame(frame: tuple[Tensor, Tensor | None]) -> Tensor:
        found.append(frame)
        if decode:
            return EncodecModel._decode_frame(model, frame)
        return torch.zeros(1, model.channels, 320 * frame[0].shape[-1])

    with _replaced(model, _decode_frame=decode_frame, get_lm_model=lambda: lm):
        original = MODELS[model.name]
        MODELS[model.name] = lambda: model
        try:
            audio, _ = decompress_from_file(io.BytesIO(data))
        finally:
            MODELS[model.name] = original
    return found, audio


@contextmanager
def _replaced(model: EncodecModel, **methods: Any) -> Iterator[None]:
    for name, method in methods.items():
        model.__dict__[name] = method
    try:
        yield
    finally:
        for name in methods:
            del model.__dict__[name]


def written(name: str, frames: Frames, samples: int, lm: LanguageModel | None) -> bytes:
    """Our file of these codes."""
    header = EncodecHeader(name, samples, frames[0][0].shape[1], lm is not None)
    # In pieces, as a stream writes them.
    body = [segment_bytes(codes[0].split(8, -1), None if s is None else float(s), lm) for codes, s in frames]
    return b"".join([header.to_bytes(), *body])


def read(data: bytes, lm: LanguageModel | None = None) -> tuple[EncodecReader, list[tuple[Tensor, float | None]]]:
    """Our reader of a file, and the codes and gain of each block."""
    reader = EncodecReader(ByteSource(io.BytesIO(data)), "file")
    reader.language_model = lm
    return reader, [(torch.from_numpy(block.codes.copy()), block.gain) for block in reader.blocks()]
