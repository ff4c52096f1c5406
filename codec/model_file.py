"""Model files: a codec as safetensors, with its config as JSON in the header."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from codec.atomic_file import atomic_write
from codec.config import CodecConfig
from codec.model import Codec
from codec.network import DACNetwork, EncoderDecoder, ISTFTNetwork, SEANet
from codec.quantization import FactorizedQuantizer, FiniteScalarQuantizer, ResidualVectorQuantizer, SimVQ
from codec.tensor_file import read_tensors

__all__ = [
    "MODEL_NAME",
    "ModelFileError",
    "fingerprint",
    "inference_state",
    "load_inference_state",
    "load_model",
    "make_codec",
    "save_model",
    "seanet_settings",
    "stored_fingerprint",
]

MODEL_NAME = "model.safetensors"  # in a run's folder

# The parts that a file may name. A file is data from strangers, so it never chooses what is imported.
_NETWORKS = (SEANet, ISTFTNetwork, DACNetwork, EncoderDecoder)
_QUANTIZERS = (ResidualVectorQuantizer, FactorizedQuantizer, FiniteScalarQuantizer, SimVQ)
_PARTS: dict[str, type] = {part.__name__: part for part in (*_NETWORKS, *_QUANTIZERS)}
_PREFIX = "quantizer."


class ModelFileError(ValueError):
    """A model file cannot be read; the message says what was found."""


def make_codec(settings: Mapping[str, Any], parts: Mapping[str, type] | None = None) -> Codec:
    """A codec with random weights; the inverse of `CodecConfig.to_dict`.

    Args:
        settings: Settings of `Codec`; its `network` and `quantizer` have a class name (`name`) and settings. So do
            parts of these.
        parts: Classes from outside this project that `name` may name, by their names.

    Raises:
        ValueError: A class or a setting is unknown, or a value is out of range.
    """
    known = _PARTS | dict(parts or {})
    settings = dict(settings)
    made = {role: _make_part(role, settings.pop(role, {}), known) for role in ("network", "quantizer")}
    codec: Codec = _call(Codec, settings | made)
    return codec


def _make_part(role: str, settings: Mapping[str, Any], known: Mapping[str, type]) -> Any:
    """The object that `settings` describes; settings that are mappings describe parts of it."""
    made = {key: _make_part(key, value, known) if isinstance(value, Mapping) else value
            for key, value in dict(settings).items()}  # fmt: skip
    name = made.pop("name", None)
    if name not in known:
        raise ValueError(f"unknown {role} {name!r}, expected one of {', '.join(known)}: pass its class in `parts`")
    return _call(known[name], made)


def seanet_settings(**settings: Any) -> dict[str, Any]:
    """Settings for `make_codec` of a codec with a SEANet and a residual vector quantizer, from one flat list.

    Args:
        settings: Settings of `Codec`, `SEANet` and `ResidualVectorQuantizer`; the name tells to which one belongs.
    """
    network = {field.name for field in fields(SEANet)}
    codec = {field.name for field in fields(CodecConfig)} - network
    latent_dim = settings.get("latent_dim", SEANet.latent_dim)
    quantizer = {name: value for name, value in settings.items() if name not in network | codec}
    return {
        **{name: value for name, value in settings.items() if name in codec},
        "network": {"name": "SEANet"} | {name: value for name, value in settings.items() if name in network},
        "quantizer": {"name": "ResidualVectorQuantizer", "latent_dim": latent_dim} | quantizer,
    }


def _call(part: type, settings: Mapping[str, Any]) -> Any:
    try:
        return part(**settings)
    except (TypeError, AttributeError) as error:  # AttributeError: a part of another kind
        raise ValueError(f"the settings do not fit {part.__name__}: {error}") from error


def save_model(codec: Codec, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes a codec for inference, without the state that only training needs.

    Args:
        dtype: Type of the numbers in the file; `load_model` returns float32. float16 halves the file. The codec that is
            loaded from it has rounded weights and therefore another fingerprint.

    Raises:
        OSError: The file cannot be written.
    """
    weights = {
        name: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in inference_state(codec).items()
    }
    # One metadata entry: safetensors writes several in random order, and equal models should be equal files.
    description = {"config": codec.config.to_dict(), "fingerprint": _digest(codec.config, weights)}
    with atomic_write(Path(path)) as beside:
        # safetensors would write the file itself, and report a full disk as an error of its own.
        beside.write_bytes(save(weights, metadata={"codec": json.dumps(description)}))


def load_model(path: str | Path, parts: Mapping[str, type] | None = None) -> Codec:
    """Reads what `save_model` wrote, in eval mode, in float32, on the CPU.

    Args:
        parts: As in `make_codec`.

    Raises:
        ModelFileError: The file is missing or corrupt, or is not a model of this project.
        OSError: The file may not be read.
    """
    if not Path(path).is_file():
        raise ModelFileError(f"there is no model file at {path}")
    try:
        metadata, weights = read_tensors(Path(path))
    except SafetensorError as error:
        raise ModelFileError(f"{path} is corrupt, or not a safetensors file ({error})") from error
    if "codec" not in metadata:
        raise ModelFileError(f"{path} has no codec config in its header: it is not a model saved by this project")
    try:
        description = json.loads(metadata["codec"])
        codec = make_codec(description["config"], parts)
        load_inference_state(codec, weights)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        # torch lists every key that differs, one per line under a heading.
        reason = str(error).splitlines()[-1].strip()[:200]
        raise ModelFileError(f"{path} does not fit its own config: {reason}") from error
    found, expected = fingerprint(codec), description.get("fingerprint")
    if found != expected:
        raise ModelFileError(f"{path} is corrupt: its contents have the fingerprint {found}, expected {expected}")
    return codec.eval()


def stored_fingerprint(path: Path) -> str | None:
    """The fingerprint in the header of a model file, which is not checked; None if there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})["codec"])
        return str(description["fingerprint"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None


def load_inference_state(codec: Codec, weights: Mapping[str, Tensor]) -> None:
    """Loads the weights of encoder, decoder and quantizer; state that only training needs starts anew.

    Raises:
        ValueError, RuntimeError: A name or shape differs; the message names it.
    """
    codec.quantizer.load_inference_state(
        {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items() if name.startswith(_PREFIX)}
    )
    rest = {name: tensor for name, tensor in weights.items() if not name.startswith(_PREFIX)}
    kept = {name: tensor for name, tensor in codec.state_dict().items() if name.startswith(_PREFIX)}
    codec.load_state_dict(rest | kept)


def fingerprint(codec: Codec) -> str:
    """16 hexadecimal digits that any change of the config or of the inference weights alters."""
    return _digest(codec.config, inference_state(codec))


def inference_state(codec: Codec) -> dict[str, Tensor]:
    """The weights of encoder, decoder and quantizer, without the state that only training needs."""
    rest = {name: tensor for name, tensor in codec.state_dict().items() if not name.startswith(_PREFIX)}
    return rest | {_PREFIX + name: tensor for name, tensor in codec.quantizer.inference_state().items()}


def _digest(config: CodecConfig, weights: Mapping[str, Tensor]) -> str:
    """The fingerprint of the codec that `load_model` makes of these weights, whose numbers are float32."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        values = tensor.detach().float() if tensor.is_floating_point() else tensor
        digest.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
