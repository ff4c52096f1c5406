"""What the header of an encoded file says, and the error for one that cannot be read."""

import json
import re
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

__all__ = ["CODINGS", "BitstreamError", "BitstreamHeader"]

CODINGS = ("fixed", "adaptive", "transformer")


class BitstreamError(ValueError):
    """An encoded file cannot be read; the message says what was found, in one sentence."""


@dataclass(frozen=True)
class BitstreamHeader:
    """What a reader must know before the first block.

    Args:
        model: Fingerprint of the codec, see `Codec.fingerprint`.
        sample_rate: Of the decoded audio in Hz.
        channels: Of the decoded audio.
        codebooks: Codes per frame.
        bits_per_code: 1 to 16.
        hop_samples: Samples per frame.
        scaled: Whether each block has a scale.
        source_sample_rate, source_channels: Of the file that was encoded; they inform and change nothing.
        coding: How the codes of a block are stored: `fixed`, `adaptive` or `transformer`.
        sync_blocks: Each block whose number is a multiple of it, counted from 0, is a sync point: it is coded as if
            nothing had come before.
        entropy_model: Fingerprint of the model of the `transformer` coding, None for the others.

    Raises:
        ValueError: A value is of the wrong type or out of range; the message names it.
    """

    model: str
    sample_rate: int
    channels: int
    codebooks: int
    bits_per_code: int
    hop_samples: int
    scaled: bool
    source_sample_rate: int
    source_channels: int
    coding: str = "fixed"
    sync_blocks: int = 1
    entropy_model: str | None = None

    def __post_init__(self) -> None:
        _check_fingerprint("model", self.model)
        if not isinstance(self.scaled, bool):
            raise ValueError(f"scaled must be true or false, got {str(self.scaled)[:40]!r}")
        limits = {"bits_per_code": 16, "codebooks": 1 << 16, "sync_blocks": 1 << 16}
        for name in ("sample_rate", "channels", "codebooks", "bits_per_code", "hop_samples",
                     "source_sample_rate", "source_channels", "sync_blocks"):  # fmt: skip
            value, limit = getattr(self, name), limits.get(name, (1 << 32) - 1)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
                raise ValueError(f"{name} must be a whole number from 1 to {limit}, got {str(value)[:40]!r}")
        if self.coding not in CODINGS:
            raise ValueError(f"coding must be one of {', '.join(CODINGS)}, got {str(self.coding)[:40]!r}")
        if self.coding == "transformer":
            _check_fingerprint("entropy_model", self.entropy_model)
        elif self.entropy_model is not None:
            raise ValueError(f"the coding {self.coding} has no entropy_model, got {str(self.entropy_model)[:40]!r}")

    def block_bytes(self, frames: int) -> int:
        """Size of the codes of so many frames in the `fixed` coding."""
        return -(-frames * self.codebooks * self.bits_per_code // 8)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Inverse of writing the fields as JSON; entries that are no field of this class are passed over.

        Raises:
            ValueError: The text is no JSON object with these fields.
        """
        try:
            values: Any = json.loads(text.decode())
        except RecursionError as error:
            raise ValueError("its JSON is nested too deeply") from error
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


def _check_fingerprint(name: str, value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{16}", value):
        raise ValueError(f"{name} must be a fingerprint of 16 hex digits, got {str(value)[:40]!r}")
