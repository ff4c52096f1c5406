"""Weights by the names of other packages, and what they are called here.

encodec, audiocraft and transformers number the layers of a SEANet alike. They differ in how many wrappers stand
around a convolution, and in whether weight norm is torch's old one (`weight_g`, `weight_v`) or its new one.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from codec.model import Codec
from codec.model_file import inference_state, load_inference_state, make_codec, seanet_settings

__all__ = ["ForeignModelError", "ForeignWeights", "codec_with", "read_safetensors", "read_torch", "translated"]

_BOOK = re.compile(r"quantizer\.(?:vq\.)?layers\.(\d+)\._?codebook\.(\w+)")


class ForeignModelError(ValueError):
    """Another package's model cannot be read, or this project's cannot be written for it; the message says why."""


class ForeignWeights(NamedTuple):
    """A state dict by our names."""

    layers: dict[str, Tensor]  # of encoder and decoder
    embed: Tensor  # [K, size, D]
    initialized: bool  # whether every codebook was initialized from data


def read_torch(path: Path) -> Any:
    """What a file of `torch.save` holds, on the CPU.

    Raises:
        ForeignModelError: It is damaged, or holds more than tensors and primitives.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a file made to do harm can provoke anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ForeignModelError(f"{path}: torch refuses it as damaged or unsafe ({reason[:200]})") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ForeignModelError: It is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ForeignModelError(f"{path} is damaged or no safetensors file ({error})") from error


def translated(state: Any) -> ForeignWeights:
    """The state dict of an EnCodec-style model of encodec, audiocraft or transformers.

    The moving averages of its codebooks (`cluster_size`, `embed_avg`) are left out. Their scale is that of another
    batch, in many files they are zeros, and a code that was rare there would count as dead and be replaced in the
    first step. They start anew: every code counts as one vector, its own value.

    Shape: embed [size, D] of each book -> [K, size, D].

    Raises:
        ForeignModelError: It is no such state dict.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ForeignModelError("the state dict of a codec is wanted, names with a tensor each")
    layers: dict[str, Tensor] = {}
    books: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        if match := _BOOK.fullmatch(name):
            books.setdefault(match[2], {})[int(match[1])] = tensor
        else:
            layers[_renamed(name)] = tensor.float()
    embeds = books.get("embed", {})
    shapes = {tuple(embed.shape) for embed in embeds.values()}
    if sorted(embeds) != list(range(len(embeds))) or len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ForeignModelError(
            f"the codebooks of a residual vector quantizer are wanted, quantizer.(vq.)layers.K.(_)codebook.embed, "
            f"all of one shape; got {len(embeds)}{f' of {sorted(shapes)}' if shapes else ''}"
        )
    embed = torch.stack([embeds[k].float() for k in range(len(embeds))])
    return ForeignWeights(layers, embed, all(bool(flag.all()) for flag in books.get("inited", {}).values()))


def _renamed(name: str) -> str:
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = re.sub(r"\.(conv|convtr)\.(conv|convtr)\.", ".conv.", name)
    name = re.sub(r"\.(conv|convtr)\.norm\.", ".norm.", name)
    name = re.sub(r"\.weight_g$", ".parametrizations.weight.original0", name)
    return re.sub(r"\.weight_v$", ".parametrizations.weight.original1", name)


def codec_with(weights: ForeignWeights, settings: Mapping[str, Any]) -> Codec:
    """A codec with these weights, in eval mode.

    Args:
        settings: As of `codec.model_file.seanet_settings`.

    Raises:
        ForeignModelError: A weight is missing, superfluous or of another shape; the message names one.
    """
    codec = make_codec(seanet_settings(**settings)).eval()
    state = {
        **weights.layers,
        "quantizer.embed": weights.embed,
        "quantizer.is_initialized": torch.tensor(weights.initialized),
    }
    wanted = {name: list(tensor.shape) for name, tensor in inference_state(codec).items()}
    got = {name: list(tensor.shape) for name, tensor in state.items()}
    for name in [*wanted, *got]:
        if wanted.get(name) != got.get(name):
            raise ForeignModelError(
                f"the weights do not fit the settings: {name} should be {wanted.get(name, 'absent')}, "
                f"is {got.get(name, 'missing')}"
            )
    load_inference_state(codec, state)
    return codec
