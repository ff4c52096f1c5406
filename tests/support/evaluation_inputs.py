"""A tiny codec with codebooks, and a folder of audio in groups, for tests of the evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from codec import Codec
from codec_inputs import seanet_codec

__all__ = ["coding_codec", "write_groups"]

_TINY: dict[str, Any] = {
    "filters": 4,
    "latent_dim": 16,
    "num_codebooks": 4,
    "codebook_size": 16,
    "lstm_layers": 1,
    "bandwidths_kbps": (0.6, 1.2),
}


def coding_codec(**changes: Any) -> Codec:
    """A tiny codec whose codebooks are initialized with latents of noise."""
    torch.manual_seed(1)
    codec = seanet_codec(**(_TINY | changes)).eval()
    with torch.no_grad():
        latents = codec.encoder(torch.randn(1, codec.config.channels, 48_000))[0].t()
        codec.quantizer.initialize(latents, seed=0)
    return codec


def write_groups(folder: Path) -> Path:
    """Writes two groups of 0.5 s clips whose sample rate and channels differ from the codec's; returns the folder."""
    for number, name in enumerate(["music/a.wav", "music/b.wav", "speech/one/c.flac", "speech/d.ogg"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(number).standard_normal((24_000, 2))
        soundfile.write(folder / name, noise, 48_000)
    return folder
