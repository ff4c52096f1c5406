"""Starting a run from trained weights: those of another run's checkpoint, or of a model file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from codec.checkpoint_file import averaged_weights
from codec.config import flatten_settings, part_settings
from codec.model import Codec
from codec.model_file import MODEL_NAME, fingerprint, load_model
from codec.training.adversarial import AdversarialTraining
from codec.training.checkpoint.store import load_checkpoint

__all__ = [
    "Part",
    "Pretrained",
    "check_architecture",
    "load_parts",
    "load_weights",
    "read_pretrained",
]

Part = Literal["encoder", "quantizer", "decoder", "discriminator"]

# Settings that no weight depends on: the offered bandwidths, and how long audio is split into segments.
_FREE_TO_DIFFER = ("bandwidths_kbps", "segment_seconds", "overlap")


class Pretrained(NamedTuple):
    """Trained weights and where they come from."""

    state: Mapping[str, Any]  # state of a `Trainer`; from a model file only its entries about the codec
    description: str


def read_pretrained(path: Path) -> Pretrained:
    """Reads trained weights.

    A model file has no discriminator and no codebook statistics. The statistics are initialized such that each code
    counts as much as 1 / (1 - decay) vectors at its position (see `load_model`).

    Args:
        path: A checkpoint, a run's folder (its newest checkpoint), a model file, or a folder that has a
            model.safetensors and no checkpoints.

    Raises:
        CheckpointError: There is no intact checkpoint.
        ModelFileError: The model file is corrupt.
    """
    is_model_folder = (path / MODEL_NAME).is_file() and not (path / "checkpoints").exists()
    if path.suffix != ".safetensors" and not is_model_folder:
        checkpoint = load_checkpoint(path)
        return Pretrained(checkpoint.state, f"{path} at step {checkpoint.step}")
    codec = load_model(path / MODEL_NAME if is_model_folder else path)
    weights = codec.state_dict()
    # An average of one state. With a count of 0 the first step would overwrite it.
    average = {"n_averaged": torch.tensor(1), **{f"module.{name}": value for name, value in weights.items()}}
    state = {"codec_config": codec.config.to_dict(), "codec": weights, "average": average}
    return Pretrained(state, f"the model {path} ({fingerprint(codec)})")


def check_architecture(state: Mapping[str, Any], codec: Codec) -> None:
    """Compares the architecture of the codec in the state of a `Trainer` with that of `codec`.

    Raises:
        ValueError: Names the first settings that differ.
    """
    _check_equal("codec", codec.config.to_dict(), state["codec_config"])


def _check_equal(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    ours, theirs = flatten_settings(ours), flatten_settings(theirs)
    names = [name for name in [*ours, *theirs] if name not in _FREE_TO_DIFFER]
    differing = [
        f"{name} is {theirs.get(name)} there and {ours.get(name)} here"
        for name in dict.fromkeys(names)
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        raise ValueError(
            f"the {what} there has another architecture: {'; '.join(differing[:3])}{'; ...' if differing[3:] else ''}"
        )


def load_weights(state: Mapping[str, Any], codec: Codec, adversarial: AdversarialTraining | None) -> bool:
    """Loads the weights in the state of a `Trainer`, codebooks included, into a codec and a discriminator.

    Returns:
        Whether the discriminator was loaded. It is left unchanged if either side has none.

    Raises:
        ValueError: The codec or the discriminator has another architecture. The message names the difference.
    """
    check_architecture(state, codec)
    codec.load_state_dict(state["codec"])
    if adversarial is None or "adversarial" not in state:
        return False
    _check_shapes(state["adversarial"], adversarial)
    adversarial.load_state_dict(state["adversarial"])
    return True


def load_parts(
    state: Mapping[str, Any], codec: Codec, adversarial: AdversarialTraining | None, parts: Sequence[Part]
) -> None:
    """Loads some parts from the state of a `Trainer`; the others may have any architecture and are left unchanged.

    The encoder and the decoder get the averaged weights, which is what the run there exports.

    Args:
        parts: Of `encoder`, `quantizer`, `decoder` and `discriminator`, at least one.

    Raises:
        ValueError: A part is unknown or missing on either side, or has another architecture. The message names it.
    """
    if not parts or set(parts) - set(get_args(Part)):
        raise ValueError(f"expected at least one of the parts {', '.join(get_args(Part))}, got {list(parts)}")
    ours, theirs = codec.config.to_dict(), state["codec_config"]
    for part in parts:
        if part == "discriminator":
            if adversarial is None or "adversarial" not in state:
                raise ValueError(f"there is no discriminator {'here' if adversarial is None else 'there'}")
            _check_shapes(state["adversarial"], adversarial)
        else:
            _check_equal(part, *(_of_part(settings, part) for settings in (ours, theirs)))
    averaged = averaged_weights(state)
    for part in parts:
        if part == "discriminator":
            assert adversarial is not None
            adversarial.load_state_dict(state["adversarial"])
        else:
            prefix, source = f"{part}.", state["codec"] if part == "quantizer" else averaged
            weights = {name.removeprefix(prefix): value for name, value in source.items() if name.startswith(prefix)}
            codec.get_submodule(part).load_state_dict(weights)


def _of_part(settings: Mapping[str, Any], part: Literal["encoder", "quantizer", "decoder"]) -> dict[str, Any]:
    """The settings of a codec on which the weights of one part depend."""
    signal = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    return signal | {part: part_settings(settings, part)}


def _check_shapes(state: Mapping[str, Any], module: nn.Module) -> None:
    theirs, ours = _shapes(state), _shapes(module.state_dict())
    differing = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    if differing:
        name = differing[0]
        raise ValueError(
            f"the discriminator there has another architecture: {name} is {theirs.get(name, 'missing')} there and "
            f"{ours.get(name, 'missing')} here"
        )


def _shapes(state: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
