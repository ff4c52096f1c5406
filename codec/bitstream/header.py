"""The header of an .ecdc file, and the error for files that cannot be read."""

import json
import re
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

__all__ = ["CODINGS", "BitstreamError", "BitstreamHeader"]

CODINGS = ("fixed", "adaptive", "transformer")


class BitstreamError(ValueError):
    """An encoded file cannot be read. The message is one sentence for the user."""


@dataclass(frozen=True)
class BitstreamHeader:
    """What a reader must know before the first block.

    Args:
        model: Fingerprint of the codec (`Codec.fingerprint`).
        sample_rate: Sampling rate of the decoded audio in Hz.
        channels: Channels of the decoded audio.
        num_codebooks: Codes per frame.
        bits_per_code: Bits of one code, 1 to 16.
        hop_samples: Samples per frame.
        has_gain: Whether each block stores a gain.
        source_sample_rate, source_channels: Format of the audio that was encoded, for information only.
        coding: How the codes of a block are stored: `fixed`, `adaptive` or `transformer`.
        random_access_interval: In blocks. Block number n, counted from 0, is a random access point if n is a multiple
            of this interval: it is coded without reference to earlier blocks.
        entropy_model: Fingerprint of the entropy model of the coding `transformer`; None for the other codings.

    Raises:
        ValueError: A value has the wrong type or is out of range.
    """

    model: str
    sample_rate: int
    channels: int
    num_codebooks: int
    bits_per_code: int
    hop_samples: int
    has_gain: bool
    source_sample_rate: int
    source_channels: int
    coding: str = "fixed"
    random_access_interval: int = 1
    entropy_model: str | None = None

    def __post_init__(self) -> None:
        _check_fingerprint("model", self.model)
        if not isinstance(self.has_gain, bool):
            raise ValueError(f"has_gain must be true or false, got {_excerpt(self.has_gain)}")
        limits = {"bits_per_code": 16, "num_codebooks": 1 << 16, "random_access_interval": 1 << 16}
        for name in ("sample_rate", "channels", "num_codebooks", "bits_per_code", "hop_samples",
                     "source_sample_rate", "source_channels", "random_access_interval"):  # fmt: skip
            value, limit = getattr(self, name), limits.get(name, (1 << 32) - 1)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
                raise ValueError(f"{name} must be a whole number from 1 to {limit}, got {_excerpt(value)}")
        if self.coding not in CODINGS:
            raise ValueError(f"coding must be one of {', '.join(CODINGS)}, got {_excerpt(self.coding)}")
        if self.coding == "transformer":
            _check_fingerprint("entropy_model", self.entropy_model)
        elif self.entropy_model is not None:
            raise ValueError(f"the coding {self.coding} has no entropy_model, got {_excerpt(self.entropy_model)}")

    def block_bytes(self, frames: int) -> int:
        """Bytes that the codes of `frames` frames take in the coding `fixed`."""
        return -(-frames * self.num_codebooks * self.bits_per_code // 8)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Reads the fields from a JSON object. Unknown entries are ignored.

        Raises:
            ValueError: The text is not a JSON object with these fields.
        """
        try:
            values: Any = json.loads(text.decode())
        except RecursionError as error:
            raise ValueError("its JSON is nested too deeply") from error
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


def _check_fingerprint(name: str, value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{16}", value):
        raise ValueError(f"{name} must be a fingerprint of 16 hex digits, got {_excerpt(value)}")


def _excerpt(value: Any) -> str:
    return repr(str(value)[:40])
