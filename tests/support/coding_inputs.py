"""Tiny codecs of every kind, and the program `codec` in this process."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from codec import Codec
from codec.cli import main
from codec.model_file import save_model
from codec_inputs import seanet_codec

ROOT = Path(__file__).resolve().parents[2]
TINY: dict[str, Any] = {
    "sample_rate": 24_000,
    "filters": 4,
    "strides": (2, 4, 5, 8),
    "latent_dim": 16,
    "num_codebooks": 8,
    "codebook_size": 16,
    "lstm_layers": 1,
    "bandwidths_kbps": (2.4,),
}
KINDS: dict[str, dict[str, Any]] = {
    "causal": {},
    "causal_constant": {"padding": "constant", "skip": "identity"},
    "causal_no_lstm": {"lstm_layers": 0, "residual_layers": 2},
    "segments": {
        "sample_rate": 48_000,
        "channels": 2,
        "causal": False,
        "norm": "time_group_norm",
        "normalize": True,
        "segment_seconds": 0.5,
        "bandwidths_kbps": (4.8,),
    },
    "whole": {"causal": False, "padding": "constant"},
}


def tiny_codec(kind: str, **changes: Any) -> Codec:
    """A codec whose latents vary more than those of a new encoder, with codebooks drawn from latents of noise."""
    torch.manual_seed(1)
    codec = seanet_codec(**(TINY | KINDS[kind] | changes)).eval()
    with torch.no_grad():
        for name, parameter in codec.encoder.named_parameters():
            if name.endswith(("conv.weight", "weight.original0")):
                parameter *= 2
        codec.quantizer.initialize(codec.encoder(torch.randn(1, codec.config.channels, 48_000))[0].t(), seed=0)
    return codec


def save_tiny(kind: str, folder: Path, **changes: Any) -> str:
    """Saves such a codec in a run folder and returns the folder."""
    run = folder / kind
    run.mkdir(parents=True)
    save_model(tiny_codec(kind, **changes), run / "model.safetensors")
    return str(run)


def run_codec(*arguments: str | Path) -> int:
    """Runs the program in this process and returns its exit status."""
    return main([str(argument) for argument in arguments])


def noise(samples: int, channels: int = 1) -> np.ndarray:
    """Shape: -> [samples, channels] float32 in [-0.5, 0.5]."""
    return np.random.default_rng(samples).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)


def write_wav(path: Path | str, audio: np.ndarray, sample_rate: int = 24_000) -> None:
    soundfile.write(path, audio, sample_rate, subtype="FLOAT")
