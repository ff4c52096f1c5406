"""Freezes the encoder during a run, and keeps the data-parallel copy of the codec in step with that."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from codec.model import Codec
from codec.training.distributed import Processes

__all__ = ["EncoderFreeze"]


class EncoderFreeze:
    """Whether the encoder is trained. A frozen one keeps its averaged weights.

    Args:
        frozen: Whether the encoder is frozen from the start.

    Attributes:
        replica: The codec as it takes part in training, see `Processes.data_parallel`.
    """

    def __init__(self, codec: Codec, processes: Processes, device: torch.device, frozen: bool) -> None:
        self.codec, self.processes, self.device, self.frozen = codec, processes, device, not frozen
        self._set(frozen)

    def freeze(self, averaged: Codec) -> None:
        """Freezes the encoder with the weights of `averaged`. The codebooks must be initialized again for them."""
        self.codec.encoder.load_state_dict(averaged.encoder.state_dict())
        self.codec.quantizer.reset()
        self._set(True)

    def unfreeze(self) -> None:
        """Trains the encoder from now on."""
        self._set(False)

    def _set(self, frozen: bool) -> None:
        if frozen != self.frozen:
            self.frozen = frozen
            self.codec.encoder.requires_grad_(not frozen)
            # It registers trainable parameters.
            self.replica: nn.Module = self.processes.data_parallel(self.codec, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {"frozen": self.frozen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`, except for the weights, which are in the codec's."""
        self._set(state["frozen"])
