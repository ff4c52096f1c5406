"""Compression models of audiocraft, including the tokenizers of MusicGen and AudioGen (Copet et al. 2023).

A checkpoint holds the weights and `xp.cfg`, the configuration of the experiment. An exported checkpoint holds it as
YAML. A checkpoint of the trainer holds pickled OmegaConf objects, which become placeholders here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from codec.interop.encodec import with_bandwidths
from codec.interop.weights import ForeignModelError, read_torch

__all__ = ["read_checkpoint", "settings_of_audiocraft", "state_of_checkpoint"]

# Name of a setting in the group "seanet" -> name of the setting here.
_SEANET = {
    "channels": "channels",
    "n_filters": "filters",
    "dimension": "latent_dim",
    "kernel_size": "kernel_size",
    "residual_kernel_size": "residual_kernel_size",
    "n_residual_layers": "residual_layers",
    "dilation_base": "dilation_base",
    "compress": "compress",
    "lstm": "lstm_layers",
    "causal": "causal",
    "norm": "norm",
    "pad_mode": "padding",
}
# Settings of which a codec of this project has one value. It is also audiocraft's value of a setting that is absent.
_FIXED: dict[str, Any] = {
    "compression_model": "encodec",
    "encodec.autoencoder": "seanet",
    "encodec.quantizer": "rvq",
    "seanet.activation": "ELU",
    "seanet.activation_params.alpha": 1.0,
    "seanet.norm_params": {},
    "seanet.disable_norm_outer_blocks": 0,
    "seanet.trim_right_ratio": 1.0,
    "seanet.final_activation": None,
}


class _Node:
    """Placeholder for every class that a pickled OmegaConf configuration names. It only stores its state."""

    def __init__(self, *_: object) -> None: ...


_OMEGACONF = [
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")),
    *("omegaconf.base.Metadata", "omegaconf.base.ContainerMetadata", "typing.Any", "collections.defaultdict"),
    *(f"builtins.{kind}" for kind in ("dict", "list", "int", "float", "str", "bool")),
]


def read_checkpoint(path: Path) -> Any:
    """Reads a file of `torch.save`, on the CPU; OmegaConf's objects become placeholders.

    Raises:
        ForeignModelError: The file is corrupt, or holds more than tensors, primitives and OmegaConf's objects.
    """
    with torch.serialization.safe_globals([(_Node, name) for name in _OMEGACONF]):
        return read_torch(path)


def state_of_checkpoint(checkpoint: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """State dict and configuration.

    Raises:
        ForeignModelError: It is another kind of checkpoint.
    """
    if "pretrained" in checkpoint:
        raise ForeignModelError(f"the file only names a model: {checkpoint['pretrained']}")
    state, settings = checkpoint.get("best_state"), _plain(checkpoint.get("xp.cfg"))
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):  # a checkpoint of the trainer
        state = state["model"]
    if isinstance(settings, str):
        import yaml

        try:
            settings = yaml.safe_load(settings)
        except yaml.YAMLError as error:
            raise ForeignModelError(f"its xp.cfg is not valid YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(settings, dict) or not state:
        raise ForeignModelError("expected audiocraft's best_state and xp.cfg, but one of them is empty or missing")
    return state, _resolved(settings, settings)


def settings_of_audiocraft(settings: dict[str, Any]) -> dict[str, Any]:
    """The codec settings that `xp.cfg` describes.

    With quantizer dropout the bandwidths are those of 1, 2, 4 ... codebooks, otherwise that of all codebooks.

    Raises:
        ForeignModelError: A codec of this project cannot express it; the message names the setting.
    """
    encodec, seanet, rvq = (_group(settings, name) for name in ("encodec", "seanet", "rvq"))
    shared = {name: value for name, value in seanet.items() if name not in ("encoder", "decoder")}
    sides = [shared | (seanet.get(side) or {}) for side in ("encoder", "decoder")]
    for side in sides:
        _check_fixed(settings | {"seanet": side})
    try:
        encoder, decoder = map(_settings_from_seanet, sides)
        differing = [name for name in encoder if encoder[name] != decoder[name]]
        if differing:
            raise ForeignModelError(f"encoder and decoder must mirror each other, but {differing[0]} differs in xp.cfg")
        ours = encoder | {
            "sample_rate": encodec["sample_rate"],
            "normalize": bool(encodec.get("renormalize", False)),
            "num_codebooks": rvq["n_q"],
            "codebook_size": rvq["bins"],
        }
    except KeyError as error:
        raise ForeignModelError(f"xp.cfg lacks the setting {error.args[0]}") from error
    count = ours["num_codebooks"]
    powers = [2**i for i in range(count.bit_length())] if rvq.get("q_dropout") else []
    return with_bandwidths(ours, sorted({*powers, count}))


def _group(settings: dict[str, Any], name: str) -> dict[str, Any]:
    group = settings.get(name)
    if not isinstance(group, dict):
        raise ForeignModelError(f"xp.cfg has no group {name}: expected the configuration of an EnCodec")
    return group


def _settings_from_seanet(seanet: dict[str, Any]) -> dict[str, Any]:
    if seanet.get("last_kernel_size", seanet["kernel_size"]) != seanet["kernel_size"]:
        raise ForeignModelError(
            f"seanet.last_kernel_size must be kernel_size, {seanet['kernel_size']}, got {seanet['last_kernel_size']}"
        )
    return {ours: seanet[theirs] for theirs, ours in _SEANET.items()} | {
        "strides": tuple(reversed(seanet["ratios"])),
        "skip": "identity" if seanet["true_skip"] else "conv",
    }


def _check_fixed(settings: dict[str, Any]) -> None:
    for path, expected in _FIXED.items():
        found: Any = settings
        for key in path.split("."):
            found = found.get(key, expected) if isinstance(found, dict) else expected
        if found != expected:
            raise ForeignModelError(
                f"{path} must be {expected}, got {found}: codecs of this project have no such setting"
            )


def _plain(value: Any) -> Any:
    """Dicts, lists and primitives from placeholders of OmegaConf's nodes."""
    if isinstance(value, _Node):
        inner = vars(value)
        return _plain(inner["_content"] if "_content" in inner else inner.get("_val"))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _resolved(value: Any, settings: dict[str, Any], depth: int = 0) -> Any:
    """Replaces each `${a.b}` by the value at that path. Other interpolations stay as they are."""
    if isinstance(value, dict):
        return {key: _resolved(item, settings, depth) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, settings, depth) for item in value]
    match = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if match is None or depth > 8:  # a circular path
        return value
    found: Any = settings
    for key in match[1].split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return _resolved(found, settings, depth + 1) if not isinstance(found, dict | list) else found
