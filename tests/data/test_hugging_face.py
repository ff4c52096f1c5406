"""Audio columns: rows against the files that they hold. `datasets` itself is used where it is installed."""

import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from data import DataError, HuggingFaceDataset

RATE = 8000
LENGTHS = (8000, 400, 4000, 300)  # samples of the rows


def wav(row: int) -> bytes:
    content = io.BytesIO()
    audio = np.full(LENGTHS[row], (1 + row) / 8)
    soundfile.write(content, audio, RATE, format="WAV", subtype="FLOAT")
    return content.getvalue()


class Rows(list[dict[str, Any]]):
    """What is used of `datasets.Dataset`."""

    @property
    def column_names(self) -> list[str]:
        return list(self[0])

    def cast_column(self, column: str, feature: Any) -> "Rows":
        assert feature == "Audio(decode=False)"
        return self


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A module with the part of the interface that is used. Even rows hold bytes, odd rows the path of a file."""
    rows = Rows()
    for row in range(len(LENGTHS)):
        path = tmp_path / f"{row}.wav"
        path.write_bytes(wav(row))
        rows.append({"text": "", "audio": {"bytes": None if row % 2 else wav(row), "path": str(path)}})
    arguments: dict[str, Any] = {}

    def load_dataset(path: str, name: str | None, **further: Any) -> Rows:
        arguments.update(path=path, name=name, **further)
        return rows

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.Audio = lambda decode: f"Audio(decode={decode})"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return arguments | {"arguments": arguments, "rows": rows}


def test_rows_are_drawn_by_seed_and_index(stand_in: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"name": "en", "split": "test", "seed": 2}
    dataset = HuggingFaceDataset("hub/voices", RATE, 1, 0.03, **settings)
    expected = {"path": "hub/voices", "name": "en", "split": "test", "data_files": None}
    assert stand_in["arguments"] == expected
    assert len(dataset) == 4
    levels = [float(dataset[index].audio[0, 0]) for index in range(200)]
    assert levels == [float(dataset[index].audio[0, 0]) for index in range(200)]
    counts = np.bincount(np.round(np.array(levels) * 8).astype(int) - 1)
    np.testing.assert_allclose(counts / 200, 0.25, atol=4 * np.sqrt(3 / 16 / 200))
    other = HuggingFaceDataset("hub/voices", RATE, 2, 0.03)
    assert other[0].audio.shape == (2, 240)


def test_short_rows_are_followed_by_the_next(stand_in: dict[str, Any]) -> None:
    dataset = HuggingFaceDataset("hub/voices", RATE, 1, 0.1)
    seen = set()
    for index in range(40):
        audio = dataset[index].audio[0]
        assert audio.shape == (800,)
        seen.add(tuple(row for row in range(4) if int((audio == (1 + row) / 8).sum()) > 50))
    assert seen == {(0,), (1, 2), (2,), (0, 3)}


def test_rows_that_do_not_decode_are_reported(stand_in: dict[str, Any]) -> None:
    stand_in["rows"][2]["audio"]["bytes"] = b"text"
    dataset = HuggingFaceDataset("hub/voices", RATE, 1, 0.01)
    skipped = {name for index in range(40) for name in dataset[index].skipped_files}
    assert skipped == {"hub/voices, row 2"}


def test_mistakes_are_named(stand_in: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"a column sound, got 4 rows with \['text', 'audio'\]"):
        HuggingFaceDataset("hub/voices", RATE, 1, 0.1, column="sound")
    with pytest.raises(DataError, match="segments of at least one sample"):
        HuggingFaceDataset("hub/voices", RATE, 1, 0.0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package datasets: pip install datasets"):
        HuggingFaceDataset("hub/voices", RATE, 1, 0.1)


def test_the_package_reads_parquet_files(tmp_path: Path) -> None:
    """Files as the Hub has them: a column of bytes and paths."""
    pytest.importorskip("datasets")
    column = [{"bytes": wav(row), "path": f"{row}.wav"} for row in range(len(LENGTHS))]
    pyarrow.parquet.write_table(pyarrow.table({"audio": column}), tmp_path / "a.parquet")
    dataset = HuggingFaceDataset("parquet", RATE, 1, 0.03, data_files=str(tmp_path / "a.parquet"))
    assert {round(float(dataset[index].audio[0, 0]) * 8) for index in range(60)} == {1, 2, 3, 4}
