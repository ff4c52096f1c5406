"""What a folder of tokens says about itself: `dataset.json`."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from codec.atomic_file import atomic_write
from codec.audio import readable
from codec.config import CodecConfig

__all__ = ["RESERVED", "Card", "TokensError", "token_dtype"]

# Columns of the manifest that this program writes. A column of an input manifest with such a name is renamed.
RESERVED = frozenset({"id", "path", "shard", "seconds", "samples", "frames", "model", "sample_rate", "kbps", "codes",
                      "gains", "notes", "reason"})  # fmt: skip
_CHANGEABLE = {"command", "complete", "files", "failed", "shards", "seconds", "frames"}


class TokensError(ValueError):
    """A folder of tokens or a list of files cannot be used; one sentence for the user."""


def token_dtype(codebook_sizes: tuple[int, ...]) -> str:
    """The smallest of uint16 and uint32 that holds every code."""
    return "uint16" if max(codebook_sizes) <= 1 << 16 else "uint32"


@dataclass(kw_only=True)
class Card:
    """The settings and the totals of a folder of tokens.

    Args:
        model: Fingerprint of the model.
        sample_rate: Of the model, in Hz; so is `channels`.
        hop_samples: Samples per frame; `frame_rate_hz` is `sample_rate / hop_samples`.
        kbps: Bitrate of the codes without compression.
        codebook_sizes: Codes of each codebook in use.
        dtype: Of the codes.
        has_gains: Whether each segment has a gain, which the decoder needs.
        segment_samples, segment_stride: Length of the independently coded segments and distance of their starts, in
            samples; None if a file is coded in one piece.
        format: `npz` or `parquet`.
        shard_size: As on the command line.
        entries, digest, columns: Of the list of files.
        command: That made the folder.
        complete: Whether the folder is finished. The totals are 0 before.
        files, failed, shards, seconds, frames: Totals.
    """

    model: str
    sample_rate: int
    channels: int
    hop_samples: int
    frame_rate_hz: float
    kbps: float
    codebook_sizes: list[int]
    dtype: str
    beams: int
    has_gains: bool
    segment_samples: int | None
    segment_stride: int | None
    format: str
    shard_size: str
    entries: int
    digest: str
    columns: dict[str, str] = field(default_factory=dict)
    command: str = ""
    complete: bool = False
    files: int = 0
    failed: int = 0
    shards: int = 0
    seconds: float = 0.0
    frames: int = 0

    @classmethod
    def of_codec(cls, config: CodecConfig, bandwidth_kbps: float | None, **rest: Any) -> Self:
        """The card of a codec at a bitrate; `rest` are the other settings."""
        sizes = tuple(config.codebook_sizes)[: config.codebooks_for(bandwidth_kbps)]
        has_segments = config.segment_seconds is not None
        return cls(
            sample_rate=config.sample_rate,
            channels=config.channels,
            hop_samples=config.hop_samples,
            frame_rate_hz=config.sample_rate / config.hop_samples,
            kbps=config.kbps_of(len(sizes)),
            codebook_sizes=list(sizes),
            dtype=token_dtype(sizes),
            has_gains=config.normalize,
            segment_samples=config.segment_samples_or(0) if has_segments else None,
            segment_stride=config.segment_stride(0) if has_segments else None,
            **rest,
        )

    @property
    def num_codebooks(self) -> int:
        """Number K of codebooks in use."""
        return len(self.codebook_sizes)

    def segment_frames(self, samples: int) -> list[int]:
        """Frames of each segment of a file of this length. The codes of a file are those of its segments, joined."""
        if samples == 0:
            return []
        if self.segment_samples is None or self.segment_stride is None:
            return [-(-samples // self.hop_samples)]
        starts = range(0, samples, self.segment_stride)
        return [-(-min(self.segment_samples, samples - start) // self.hop_samples) for start in starts]

    def difference(self, other: "Card") -> str | None:
        """A setting in which two cards differ, in words; None if they belong to one and the same run."""
        for each in fields(self):
            mine, others = getattr(self, each.name), getattr(other, each.name)
            if each.name not in _CHANGEABLE and mine != others:
                return f"{each.name} {mine}, not {others}"
        return None

    def save(self, path: Path) -> None:
        """Writes the card.

        Raises:
            OSError: It cannot be written.
        """
        with atomic_write(path) as temporary:
            lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in asdict(self).items())
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a card.

        Raises:
            TokensError: The file is missing, or is not a card.
            OSError: It cannot be read.
        """
        try:
            card = cls(**json.loads(path.read_text(encoding="utf-8")))
            checks = [card.hop_samples, card.sample_rate, card.channels, len(card.codebook_sizes), *card.codebook_sizes]
            checks += [each for each in (card.segment_samples, card.segment_stride) if each is not None]
            valid = all(isinstance(each, int) and each > 0 for each in checks) and card.format in ("npz", "parquet")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise TokensError(f"{readable(path.parent)} is not a folder of tokens: {path.name} is missing") from error
        except (ValueError, TypeError) as error:
            raise TokensError(f"{readable(path)}: not the description of a folder of tokens ({error})") from error
        if not valid:
            raise TokensError(f"{readable(path)}: expected positive sizes and the format npz or parquet")
        return card
