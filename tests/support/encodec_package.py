"""The encodec package's own reader and writer of files, driven without its weights: the oracle of its format."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from encodec.compress import MODELS, compress_to_file, decompress_from_file
from encodec.model import EncodecModel, LMModel
from torch import Tensor

from encodec_weights import randomize

__all__ = ["FRAME_RATES", "Frames", "package_lm", "package_model", "package_reads", "package_writes", "random_frames"]

FRAME_RATES = {"encodec_24khz": 75, "encodec_48khz": 150}
Frames = list[tuple[Tensor, Tensor | None]]  # codes [1, K, F] and scale of each segment


def package_model(name: str) -> EncodecModel:
    """One of its two models in real size, with random weights."""
    make = {"encodec_24khz": EncodecModel.encodec_model_24khz, "encodec_48khz": EncodecModel.encodec_model_48khz}[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm` is deprecated", FutureWarning)
        model = make(pretrained=False)
    model.name = name
    for layer in model.quantizer.vq.layers:
        layer._codebook.inited.fill_(1)
    randomize(model)
    return model.eval()


def package_lm(name: str) -> LMModel:
    """Its language model for one of the two, with random weights that make some codes far likelier than others."""
    books = {"encodec_24khz": 32, "encodec_48khz": 16}[name]
    lm = LMModel(books, 1024, num_layers=5, dim=200, past_context=int(3.5 * FRAME_RATES[name]))
    with torch.no_grad():
        for layer in lm.linears:
            layer.weight *= 4
    return lm.eval()


def random_frames(model: EncodecModel, samples: int, books: int) -> Frames:
    """Codes such as its `encode` returns for so many samples."""
    length, stride = model.segment_length or samples, model.segment_stride or samples
    return [
        (
            torch.randint(1024, (1, books, -(-min(length, samples - start) // 320))),
            torch.rand(1, 1) + 0.1 if model.normalize else None,
        )
        for start in range(0, samples, stride)
    ]


def package_writes(model: EncodecModel, frames: Frames, samples: int, lm: LMModel | None) -> bytes:
    """The file it makes of these codes."""
    file = io.BytesIO()
    with _replaced(model, encode=lambda audio: frames, get_lm_model=lambda: lm):
        compress_to_file(model, torch.zeros(model.channels, samples), file, use_lm=lm is not None)
    return file.getvalue()


def package_reads(model: EncodecModel, data: bytes, lm: LMModel | None, decode: bool = False) -> tuple[Frames, Tensor]:
    """The codes that it finds in a file, and its audio [C, T]; that is zeros unless it is to `decode`."""
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
