"""Audio columns of the Hugging Face package `datasets`."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from codec.audio import AudioFile
from data.entries import DataError
from data.manifest import Manifest
from data.segments import Segment, draw_segment
from data.sources import join_pieces, read_piece

__all__ = ["HuggingFaceDataset"]

_MAX_PIECES = 64  # rows joined for one segment
_STREAM = 3 << 32  # of random numbers; those below belong to other datasets and to transforms


class HuggingFaceDataset:
    """Segments from random rows of a data set of the Hugging Face Hub or of local files; a `TrainingDataset`.

    Each row is as likely as any other, whatever its duration. A row that is shorter than a segment is followed by the
    next ones. The audio is decoded by `codec.audio`, as files are; rows that do not decode are reported.

    Args:
        path, name, split, data_files: As in `datasets.load_dataset`, for example `path=parquet` with `data_files`.
        sample_rate, channels: Of the segments.
        segment_seconds: Length of each segment.
        seed: Any number >= 0.
        column: Name of the column with the audio.
        manifest, source_weights: Not used; data sets with files by name have them.

    Raises:
        DataError: The package `datasets` is missing, there is no such column, or there are no rows.
    """

    def __init__(
        self,
        path: str,
        sample_rate: int,
        channels: int,
        segment_seconds: float,
        seed: int = 0,
        name: str | None = None,
        split: str = "train",
        data_files: str | None = None,
        column: str = "audio",
        manifest: Manifest | None = None,
        source_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.segment_samples = round(segment_seconds * sample_rate)
        if self.segment_samples < 1 or seed < 0:
            raise DataError(
                f"expected segments of at least one sample and a seed >= 0, got {segment_seconds} s, {seed}"
            )
        self.sample_rate, self.channels, self.seed = sample_rate, channels, seed
        self.path, self.column = path, column
        self._rows = _load(path, name, split, data_files, column)

    def __len__(self) -> int:
        """Number of rows: an epoch has a segment of each on average."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Segment:
        """Shape: audio [C, T].

        Raises:
            DataError: Most rows do not decode.
        """
        return draw_segment(self._read, self.seed, index, _STREAM)

    def _read(self, random: np.random.Generator) -> tuple[Tensor, str]:
        row = int(random.integers(len(self._rows)))
        following = ((row + step) % len(self._rows) for step in range(1, _MAX_PIECES))

        def read(missing: int) -> Tensor | None:
            number = next(following, None)
            return None if number is None else self._piece(number, 0.0, missing)

        first = self._piece(row, random.random(), self.segment_samples)
        return join_pieces(first, read, self.segment_samples, self.sample_rate), "audio"

    def _piece(self, row: int, position: float, samples: int) -> Tensor:
        value = self._rows[row][self.column]  # the bytes of a file, or a path
        source = value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"])
        with AudioFile(source, f"{self.path}, row {row}") as file:
            return read_piece(file, self.sample_rate, self.channels, position, samples)


def _load(path: str, name: str | None, split: str, data_files: str | None, column: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError("data.HuggingFaceDataset needs the package datasets: pip install datasets") from error
    rows = datasets.load_dataset(path, name, split=split, data_files=data_files)
    if column not in rows.column_names or not len(rows):
        raise DataError(f"{path}: expected rows with a column {column}, got {len(rows)} rows with {rows.column_names}")
    return rows.cast_column(column, datasets.Audio(decode=False))
