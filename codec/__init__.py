"""A neural audio codec: what ships with a trained model.

    model = codec.load()                       # the bundled model; or a run's folder, or a model file
    codes = model.encode(audio, sample_rate)   # [B, C, T] -> [B, K, F]
    audio = model.decode(codes)                # at model.config.sample_rate
    codec.encode_file("in.wav", "out.ecdc")
    codec.decode_file("out.ecdc", "back.wav")

Shape legend of the whole project: B batch, C channels, T samples, F frames, K codebooks, D latent dim, N vectors.
Audio is [B, C, T] float in about [-1, 1]; codes are int64 [B, K, F].
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """The names of `codec.api`, which imports torch. So the program's --help does not wait for that."""
    if not name.startswith("_"):
        api = import_module("codec.api")
        if name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
