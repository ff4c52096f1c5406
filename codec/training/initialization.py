"""A run that begins with the weights of another one: fine-tuning, and the cells of an ablation."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from codec.model import Codec
from codec.training.adversary import Adversary

__all__ = ["check_architecture", "take_weights"]

# How long audio is cut up and which rates are offered: no weight depends on these.
_FREE_TO_DIFFER = ("bandwidths_kbps", "segment_seconds", "overlap")


def check_architecture(state: Mapping[str, Any], codec: Codec) -> None:
    """Makes sure that the codec in the state of a `Trainer` is built like `codec`.

    Raises:
        ValueError: Names the first settings that differ.
    """
    ours, theirs = codec.config.to_dict(), state["codec_config"]
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


def take_weights(state: Mapping[str, Any], codec: Codec, adversary: Adversary | None) -> bool:
    """Gives the weights in the state of a `Trainer`, codebooks included, to a codec and a discriminator.

    Returns:
        Whether the discriminator got its weights; without one on either side it is left as it is.

    Raises:
        ValueError: Codec or discriminator has another architecture; the message says where.
    """
    check_architecture(state, codec)
    codec.load_state_dict(state["codec"])
    if adversary is None or "adversary" not in state:
        return False
    _check_shapes(state["adversary"], adversary)
    adversary.load_state_dict(state["adversary"])
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
