"""State dicts of the encodec package (Défossez et al. 2022): of its codecs, and of its language model."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from codec.bitstream.encodec.language_model import EncodecLM
from codec.config import CodecConfig
from codec.interop.weights import ForeignModelError, ForeignWeights, first_misfit, read_torch
from codec.model_file import make_codec, seanet_settings

__all__ = ["read_encodec_lm", "settings_of_encodec", "with_bandwidths"]

# Settings that no shape shows. The package has two models, and the number of channels tells which one it is.
_MONO: dict[str, Any] = {"sample_rate": 24_000, "causal": True, "norm": "weight_norm"}
_STEREO: dict[str, Any] = {
    "sample_rate": 48_000, "causal": False, "norm": "time_group_norm", "normalize": True, "segment_seconds": 1.0,
    "overlap": 0.01,
}  # fmt: skip


def settings_of_encodec(weights: ForeignWeights) -> dict[str, Any]:
    """The settings of a state dict of the encodec package.

    Width, strides, kernels, layers and codebooks follow from the shapes. A mono model is the causal one at 24 kHz. A
    stereo model is the one at 48 kHz, which normalizes segments of 1 s. Both pad by reflection. The bandwidths are
    those of 2, 4, 8 ... codebooks, as in the paper.

    Raises:
        ForeignModelError: The state dict does not fit either model.
    """
    found = _settings_from_shapes(weights)
    known = _MONO if found["channels"] == 1 else _STEREO
    for name, expected in (("norm", known["norm"]), ("skip", "conv")):
        if found[name] != expected:
            raise ForeignModelError(
                f"a state dict must be of one of the encodec package's two models: the one with {found['channels']} "
                f"channel(s) has {name} {expected}, this one has {found[name]}"
            )
    powers = [2**i for i in range(1, found["num_codebooks"].bit_length())]
    return with_bandwidths(found | known | {"padding": "reflect"}, powers or [1])


def with_bandwidths(settings: dict[str, Any], counts: list[int]) -> dict[str, Any]:
    """The same settings with the bandwidths that these numbers of codebooks take."""
    codec = make_codec(seanet_settings(**settings))
    return settings | {"bandwidths_kbps": [codec.config.kbps_of(count) for count in counts]}


def read_encodec_lm(path: Path, config: CodecConfig) -> EncodecLM:
    """Reads a state dict of the package's language model (.th) for a codec of this config.

    Raises:
        ForeignModelError: The file is missing or corrupt, or a weight is missing, unknown, of the wrong shape or not
            finite.
    """
    if not path.is_file():
        raise ForeignModelError(f"no language model at {path}")
    state = read_torch(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ForeignModelError(f"{path} is not a language model: expected a state dict of tensors")
    model = EncodecLM(config).eval()
    if (misfit := first_misfit(model.state_dict(), state)) is not None:
        name, expected, got = misfit
        raise ForeignModelError(
            f"{path} is not a language model for {config.num_codebooks} codebooks of {config.codebook_size} codes: "
            f"expected {name} {'absent' if expected is None else expected}, got {'none' if got is None else got}"
        )
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise ForeignModelError(f"{path} is corrupt: {name} holds a number that is not finite")
    model.load_state_dict(state)
    return model


def _settings_from_shapes(weights: ForeignWeights) -> dict[str, Any]:
    """Settings of the codec. `codec_with` checks that all layers fit them.

    The shapes do not show dilations: with several residual units the package's dilation base of 2 is assumed.
    """
    layers = weights.layers
    convolutions = _shapes(layers, r"encoder\.layers\.(\d+)\.conv\.{weight}")
    residual = _shapes(layers, r"encoder\.layers\.(\d+)\.block\.1\.conv\.{weight}")
    if len(convolutions) < 3 or not residual:
        raise ForeignModelError("expected the weights of a SEANet encoder with residual units, found none")
    (filters, channels, kernel), *strided, (latent_dim, _, _) = convolutions
    hidden, width, residual_kernel = residual[0]
    norm = "weight_norm" if any(".original1" in name for name in layers) else "none"
    return {
        "channels": channels,
        "filters": filters,
        "strides": tuple(shape[2] // 2 for shape in strided),
        "latent_dim": latent_dim,
        "kernel_size": kernel,
        "residual_kernel_size": residual_kernel,
        "residual_layers": len(residual) // len(strided),
        "compress": width // max(1, hidden),
        "lstm_layers": sum(re.fullmatch(r"encoder\.layers\.\d+\.lstm\.weight_ih_l\d+", n) is not None for n in layers),
        "norm": "time_group_norm" if "encoder.layers.0.norm.weight" in layers else norm,
        "skip": "conv" if any(".shortcut." in name for name in layers) else "identity",
        "num_codebooks": weights.embed.shape[0],
        "codebook_size": weights.embed.shape[1],
    }


def _shapes(layers: dict[str, Tensor], pattern: str) -> list[list[int]]:
    """Shapes [out, in, kernel] of the weights whose names match, in the order of their layers."""
    pattern = pattern.replace("{weight}", r"(?:weight|parametrizations\.weight\.original1)")
    found = {
        int(m[1]): list(t.shape) for name, t in layers.items() if (m := re.fullmatch(pattern, name)) and t.ndim == 3
    }
    return [found[index] for index in sorted(found)]
