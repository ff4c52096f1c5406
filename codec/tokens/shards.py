"""Files with the codes of many audio files: .npz of NumPy, or Parquet."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from codec.tokens.card import Card, TokensError
from codec.tokens.encode import Tokens

__all__ = ["FORMATS", "Row", "ShardWriter", "check_format", "read_shard", "writing_shard"]

FORMATS = ("npz", "parquet")
_GAINS = ".gains"
_GROUP_BYTES, _GROUP_ROWS = 16 << 20, 1000  # of codes, and rows, in a row group of Parquet


class Row(NamedTuple):
    """The codes of one file in a shard."""

    number: int
    codes: NDArray[Any]  # [K, F]
    gains: NDArray[Any] | None  # [S]


class ShardWriter(Protocol):
    """Writes rows."""

    def add(self, line: dict[str, Any], tokens: Tokens) -> None:
        """Appends a file.

        Args:
            line: Its line in the manifest.
        """


def check_format(name: str) -> None:
    """Raises `TokensError` if a format needs a package that is missing."""
    if name == "parquet":
        _pyarrow()


def writing_shard(path: Path, card: Card) -> AbstractContextManager[ShardWriter]:
    """Writes to `path` until the block ends. Equal rows give equal bytes."""
    return _writing_npz(path) if card.format == "npz" else _writing_parquet(path, card)


def read_shard(path: Path, card: Card) -> Iterator[Row]:
    """The rows of a shard, one at a time.

    Raises:
        TokensError: The shard is corrupt.
        OSError: It is missing or cannot be read.
    """
    path.open("rb").close()  # an error of pyarrow has no name of a file
    try:
        yield from _read_npz(path) if card.format == "npz" else _read_parquet(path)
    except TokensError:
        raise
    except Exception as error:  # a corrupt file can raise anything
        raise TokensError(f"{path.name}: the shard is corrupt ({' '.join(str(error).split())})") from error


class _NpzWriter:
    """A member ID.npy for each file, and ID.gains.npy if the codec normalizes."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def add(self, line: dict[str, Any], tokens: Tokens) -> None:
        self._write(line["id"], tokens.codes)
        if tokens.gains is not None:
            self._write(line["id"] + _GAINS, tokens.gains)

    def _write(self, name: str, array: NDArray[Any]) -> None:
        # A name, not a ZipInfo: zipfile dates it 1980, so equal rows give equal bytes.
        with self._archive.open(name + ".npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)


@contextmanager
def _writing_npz(path: Path) -> Iterator[ShardWriter]:
    with zipfile.ZipFile(path, "w") as archive:
        yield _NpzWriter(archive)


def _read_npz(path: Path) -> Iterator[Row]:
    # Opened here, because np.load does not close a corrupt file.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        for name in arrays.files:
            if not name.endswith(_GAINS):
                gains = name + _GAINS
                yield Row(int(name), arrays[name], arrays[gains] if gains in arrays.files else None)


class _ParquetWriter:
    """A row for each file, with all columns of the manifest."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, line: dict[str, Any], tokens: Tokens) -> None:
        pa = _pyarrow()
        row = {field.name: _value(line.get(field.name), field) for field in self._schema}
        row["codes"] = _nested(tokens.codes, pa)
        row["gains"] = None if tokens.gains is None else pa.array(tokens.gains)
        self._rows.append(row)
        self._bytes += tokens.codes.nbytes
        if self._bytes >= _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        pa = _pyarrow()
        columns = []
        for field in self._schema:
            values = [row[field.name] for row in self._rows]
            is_list = field.name in ("codes", "gains")
            columns.append(_lists(values, field.type, pa) if is_list else pa.array(values, field.type))
        self._writer.write_table(pa.table(columns, schema=self._schema))
        self._rows, self._bytes = [], 0


def _nested(codes: NDArray[Any], pa: Any) -> Any:
    """Shape: [K, F] -> K lists of F codes."""
    offsets = np.arange(len(codes) + 1, dtype=np.int32) * codes.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(codes.reshape(-1)))


def _lists(values: list[Any], type_: Any, pa: Any) -> Any:
    """A column of lists from one array for each row; None for a row without."""
    if all(value is None for value in values):
        return pa.nulls(len(values), type_)
    offsets = np.cumsum([0, *(len(value) for value in values)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.concat_arrays(values))


@contextmanager
def _writing_parquet(path: Path, card: Card) -> Iterator[ShardWriter]:
    pa = _pyarrow()
    from pyarrow import parquet

    kinds = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
    fields = [
        ("id", pa.string()),
        ("path", pa.string()),
        ("codes", pa.list_(pa.list_(pa.uint16() if card.dtype == "uint16" else pa.uint32()))),
        *([("gains", pa.list_(pa.float32()))] if card.has_gains else []),
        ("seconds", pa.float64()),
        ("samples", pa.int64()),
        ("frames", pa.int64()),
        ("sample_rate", pa.int64()),
        ("kbps", pa.float64()),
        ("model", pa.string()),
        *((name, kinds.get(kind, pa.string())) for name, kind in card.columns.items()),
    ]
    schema = pa.schema(fields)
    with parquet.ParquetWriter(path, schema) as writer:
        shard = _ParquetWriter(writer, schema)
        yield shard
        shard.flush()


def _value(value: Any, field: Any) -> Any:
    """A value of the manifest as the type of its column."""
    if value is None or field.name in ("codes", "gains"):
        return None
    if str(field.type) != "string":
        return float(value) if str(field.type) == "double" else value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # bytes of a name that are not UTF-8


def _read_parquet(path: Path) -> Iterator[Row]:
    _pyarrow()
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names = [name for name in ("id", "codes", "gains") if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=16, columns=names):
            for i in range(len(batch)):
                codes = batch["codes"][i].values
                gains = batch["gains"][i].values.to_numpy(zero_copy_only=False) if "gains" in names else None
                flat = codes.flatten().to_numpy(zero_copy_only=False)
                yield Row(int(batch["id"][i].as_py()), flat.reshape(len(codes), -1), gains)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise TokensError(
            "the format parquet needs pyarrow, which is not installed: bash scripts/setup.sh tokens, or --format npz"
        ) from error
    return pyarrow
