"""Translates the weight names of other packages to those of this project.

encodec, audiocraft and transformers number the layers of a SEANet in the same way. They differ in the wrappers around a
convolution, and in the form of weight norm: the old one (`weight_g`, `weight_v`) or the new one.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from codec.model import Codec
from codec.model_file import inference_state, load_inference_state, make_codec, seanet_settings
from codec.tensor_file import read_tensors

__all__ = [
    "ForeignModelError",
    "ForeignWeights",
    "codec_with",
    "first_misfit",
    "read_safetensors",
    "read_torch",
    "translated",
]

_CODEBOOK = re.compile(r"quantizer\.(?:vq\.)?layers\.(\d+)\._?codebook\.(\w+)")


class ForeignModelError(ValueError):
    """A model of another package cannot be read, or a codec cannot be written in its format; the message says why."""


class ForeignWeights(NamedTuple):
    """A state dict with the names of this project."""

    layers: dict[str, Tensor]  # of encoder and decoder
    embed: Tensor  # [K, size, D]
    initialized: bool  # whether every codebook was initialized from data


def read_torch(path: Path) -> Any:
    """Reads a file of `torch.save`, on the CPU, with `weights_only=True`.

    Raises:
        ForeignModelError: The file is corrupt, or holds more than tensors and primitives.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a crafted file can raise anything
        text = str(error).strip()  # torch's first lines advise against weights_only
        reason = (text.partition("WeightsUnpickler error: ")[2] or text or type(error).__name__).splitlines()[0]
        raise ForeignModelError(
            f"{path}: the file is corrupt or unsafe, or torch.save did not write it ({reason[:200].strip()})"
        ) from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file.

    Raises:
        ForeignModelError: The file is corrupt.
        OSError: It may not be read.
    """
    try:
        return read_tensors(path)[1]
    except SafetensorError as error:
        raise ForeignModelError(f"{path} is corrupt, or not a safetensors file ({error})") from error


def translated(state: Any) -> ForeignWeights:
    """Translates the state dict of an EnCodec model of encodec, audiocraft or transformers.

    The moving averages of its codebooks (`cluster_size`, `embed_avg`) are left out. Their scale depends on a batch size
    that is not known here, and in many files they are zeros. They start anew instead: every code counts as one vector,
    its own value.

    Shape: embed [size, D] of each codebook -> [K, size, D].

    Raises:
        ForeignModelError: It is not such a state dict.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ForeignModelError("expected the state dict of a codec, a mapping of names to tensors")
    layers: dict[str, Tensor] = {}
    codebooks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        if match := _CODEBOOK.fullmatch(name):
            codebooks.setdefault(match[2], {})[int(match[1])] = tensor
        else:
            layers[_renamed(name)] = tensor.float()
    embeds = codebooks.get("embed", {})
    shapes = {tuple(embed.shape) for embed in embeds.values()}
    if sorted(embeds) != list(range(len(embeds))) or len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ForeignModelError(
            f"expected the codebooks of a residual vector quantizer, quantizer.(vq.)layers.K.(_)codebook.embed, "
            f"all of one shape, got {len(embeds)}{f' of {sorted(shapes)}' if shapes else ''}"
        )
    embed = torch.stack([embeds[k].float() for k in range(len(embeds))])
    return ForeignWeights(layers, embed, all(bool(flag.all()) for flag in codebooks.get("inited", {}).values()))


def _renamed(name: str) -> str:
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = re.sub(r"\.(conv|convtr)\.(conv|convtr)\.", ".conv.", name)
    name = re.sub(r"\.(conv|convtr)\.norm\.", ".norm.", name)
    name = re.sub(r"\.weight_g$", ".parametrizations.weight.original0", name)
    return re.sub(r"\.weight_v$", ".parametrizations.weight.original1", name)


def first_misfit(
    expected: Mapping[str, Tensor], got: Mapping[str, Tensor]
) -> tuple[str, list[int] | None, list[int] | None] | None:
    """Name, expected shape and shape of the first tensor that is missing, unexpected or of another shape.

    A shape is None if there is no such tensor; the result is None if all tensors fit.
    """
    shapes = [{name: list(tensor.shape) for name, tensor in state.items()} for state in (expected, got)]
    for name in [*shapes[0], *shapes[1]]:
        if shapes[0].get(name) != shapes[1].get(name):
            return name, shapes[0].get(name), shapes[1].get(name)
    return None


def codec_with(weights: ForeignWeights, settings: Mapping[str, Any]) -> Codec:
    """A codec with these weights, in eval mode.

    Args:
        settings: Flat settings, as for `codec.model_file.seanet_settings`.

    Raises:
        ForeignModelError: A weight is missing, unexpected or of another shape; the message names one.
    """
    codec = make_codec(seanet_settings(**settings)).eval()
    state = {
        **weights.layers,
        "quantizer.embed": weights.embed,
        "quantizer.is_initialized": torch.tensor(weights.initialized),
    }
    if (misfit := first_misfit(inference_state(codec), state)) is not None:
        name, expected, got = misfit
        raise ForeignModelError(
            f"the weights do not fit the settings: {name} should be {'absent' if expected is None else expected}, "
            f"is {'missing' if got is None else got}"
        )
    load_inference_state(codec, state)
    return codec
