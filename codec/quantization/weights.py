"""What a model file holds of a quantizer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["check_state", "inference_weights", "load_inference_weights"]


def check_state(ours: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Checks that a state that was read has the names and shapes of ours.

    Raises:
        ValueError: Names or shapes differ.
    """
    expected = {name: list(tensor.shape) for name, tensor in ours.items()}
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    if expected != found:
        raise ValueError(f"expected a quantizer with {expected}, got {found}")


def inference_weights(quantizer: nn.Module) -> dict[str, Tensor]:
    """The state dict without `counts`, a `CodeCounts`; of quantizers whose weights are learned by gradient."""
    return {name: value for name, value in quantizer.state_dict().items() if not name.startswith("counts.")}


@torch.no_grad()
def load_inference_weights(quantizer: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Inverse of `inference_weights`.

    Raises:
        ValueError: Names or shapes differ.
    """
    ours = inference_weights(quantizer)
    check_state(ours, state)
    for name, tensor in ours.items():
        tensor.copy_(state[name])
