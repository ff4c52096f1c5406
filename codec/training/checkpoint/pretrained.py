"""A run that begins with the weights of another one: fine-tuning, and the cells of an ablation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from codec.model import Codec
from codec.model_file import fingerprint, load_model, make_codec
from codec.training.adversarial import AdversarialTraining
from codec.training.checkpoint.store import CheckpointError, load_checkpoint

__all__ = ["Origin", "averaged_codec", "check_architecture", "read_origin", "take_weights"]

# How long audio is cut up and which rates are offered: no weight depends on these.
_FREE_TO_DIFFER = ("bandwidths_kbps", "segment_seconds", "overlap")

_MODEL_NAME = "model.safetensors"


class Origin(NamedTuple):
    """Where a run's first weights come from."""

    state: Mapping[str, Any]  # that of a `Trainer`, or of it what a model file tells
    description: str


def read_origin(path: Path) -> Origin:
    """A checkpoint, the newest one of a run's folder, or a model file, imported ones included.

    A folder without checkpoints may hold a model.safetensors. A model has no discriminator, and its codebooks'
    averages start anew, each code weighing as much as 1 / (1 - decay) vectors on its place (see `load_model`).

    Raises:
        CheckpointError: There is no whole checkpoint.
        ModelFileError: The model file is damaged.
    """
    folder_of_model = (path / _MODEL_NAME).is_file() and not (path / "checkpoints").exists()
    if path.suffix != ".safetensors" and not folder_of_model:
        step, state = load_checkpoint(path)
        return Origin(state, f"{path} at step {step}")
    codec = load_model(path / _MODEL_NAME if folder_of_model else path)
    weights = codec.state_dict()
    # The average of one state; with a count of 0 the first step would overwrite it.
    average = {"n_averaged": torch.tensor(1), **{f"module.{name}": value for name, value in weights.items()}}
    state = {"codec_config": codec.config.to_dict(), "codec": weights, "average": average}
    return Origin(state, f"the model {path} ({fingerprint(codec)})")


def averaged_codec(path: Path) -> Codec:
    """What a run validates and saves as its model, from one of its checkpoints: averaged weights, the newest codebooks.

    Raises:
        CheckpointError: The file is damaged, or no checkpoint of a run.
    """
    state = load_checkpoint(path).state
    try:
        codec = make_codec(state["codec_config"])
        average = {name.removeprefix("module."): value for name, value in state["average"].items()}
        del average["n_averaged"]
        books = {name: value for name, value in state["codec"].items() if name.startswith("quantizer.")}
        codec.load_state_dict(average | books)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds no run's codec: {str(error).splitlines()[-1].strip()[:200]}") from error
    return codec.eval()


def check_architecture(state: Mapping[str, Any], codec: Codec) -> None:
    """Makes sure that the codec in the state of a `Trainer` is built like `codec`.

    Raises:
        ValueError: Names the first settings that differ.
    """
    ours, theirs = _flat(codec.config.to_dict()), _flat(state["codec_config"])
    names = [name for name in [*ours, *theirs] if name not in _FREE_TO_DIFFER]
    differing = [
        f"{name} is {theirs.get(name)} there, {ours.get(name)} here"
        for name in dict.fromkeys(names)
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        raise ValueError(
            f"a codec of the same architecture is wanted, got another one: {'; '.join(differing[:3])}"
            f"{'; ...' if len(differing) > 3 else ''}"
        )


def take_weights(state: Mapping[str, Any], codec: Codec, adversarial: AdversarialTraining | None) -> bool:
    """Gives the weights in the state of a `Trainer`, codebooks included, to a codec and a discriminator.

    Returns:
        Whether the discriminator got its weights; without one on either side it is left as it is.

    Raises:
        ValueError: Codec or discriminator has another architecture; the message says where.
    """
    check_architecture(state, codec)
    codec.load_state_dict(state["codec"])
    if adversarial is None or "adversarial" not in state:
        return False
    _check_shapes(state["adversarial"], adversarial)
    adversarial.load_state_dict(state["adversarial"])
    return True


def _check_shapes(state: Mapping[str, Any], part: nn.Module) -> None:
    theirs, ours = _shapes(state), _shapes(part.state_dict())
    differing = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    if differing:
        name = differing[0]
        raise ValueError(
            f"a discriminator of the same architecture is wanted, got another one: {name} is "
            f"{theirs.get(name, 'missing')} there, {ours.get(name, 'missing')} here"
        )


def _shapes(state: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": each for inner, each in _flat(value).items()}
        else:
            found[name] = value
    return found
