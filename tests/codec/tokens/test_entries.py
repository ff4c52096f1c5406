"""Lists of files: folders and manifests."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from codec.tokens import TokensError, folder_entries, manifest_entries


def manifest(folder: Path, *lines: dict[str, Any] | str, name: str = "manifest.jsonl") -> Path:
    path = folder / name
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("\n".join(texts).encode())
    return path


def test_files_of_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b/2.flac", "a.wav", "b/1.mp3", "notes.txt", "b/c.m4a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0" * len(name))
    entries = folder_entries(tmp_path)
    assert [(e.number, e.name, e.path) for e in entries] == [
        (i, name, tmp_path / name) for i, name in enumerate(["a.wav", "b/1.mp3", "b/2.flac"])
    ]
    assert list(entries) == list(entries)
    assert [path for path, _ in entries.skipped] == [Path("b/c.m4a")]
    assert entries.count == 3
    digest = entries.digest
    assert folder_entries(tmp_path).digest == digest
    (tmp_path / "a.wav").write_bytes(b"longer")
    assert folder_entries(tmp_path).digest != digest
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokensError, match="found none"):
        folder_entries(tmp_path / "empty")


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    path.touch()
    (entry,) = folder_entries(tmp_path)
    assert os.fsencode(entry.name) == b"caf\xe9.wav"
    (entry,) = manifest_entries(manifest(tmp_path, {"path": entry.name}))
    assert entry.path.exists()


def test_lines_of_a_manifest(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        "\ufeff" + json.dumps({"path": "a b.wav", "text": "hä\u2028llo", "sample_rate": 24_000.0, "ok": True}),
        "",
        {"path": "c.wav", "skipped": "too short"},
        {"audio_filepath": "/data/d.wav", "text": None, "sample_rate": 16_000, "words": [1]},
        {"path": "../e.wav", "text": 5, "ok": None},
    )
    entries = manifest_entries(path)
    assert [(e.number, e.name, e.path) for e in entries] == [
        (0, "a b.wav", tmp_path / "a b.wav"),
        (1, "/data/d.wav", Path("/data/d.wav")),
        (2, "../e.wav", tmp_path / "../e.wav"),
    ]
    assert [e.columns for e in entries] == [
        {"text": "hä\u2028llo", "input_sample_rate": 24_000.0, "ok": True},
        {"text": None, "input_sample_rate": 16_000, "words": [1]},
        {"text": 5, "ok": None},
    ]
    assert entries.columns == {"input_sample_rate": "double", "ok": "bool", "text": "json", "words": "json"}
    changed = manifest(tmp_path, {"path": "a b.wav", "text": "other"}, name="changed.jsonl")
    assert manifest_entries(changed).digest != entries.digest


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"path": "a.wav"', "line 2"),
        ("[1]", "object"),
        ('{"file": "a.wav"}', "path"),
        ('{"path": 3}', "path"),
        ('{"path": ""}', "path"),
        ('{"path": "a\\u0000.wav"}', "path"),
        ('{"path": "a.wav", "frames": NaN}', "frames"),
        ('{"path": "a.wav", "frames": 1, "input_frames": 2}', "input_frames"),
    ],
)
def test_a_line_that_is_none(tmp_path: Path, line: str, named: str) -> None:
    path = manifest(tmp_path, {"path": "good.wav"}, line)
    with pytest.raises(TokensError) as caught:
        manifest_entries(path)
    assert f"{path}, line 2" in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"path": "a", "skipped": "b"}'])
def test_a_manifest_without_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.jsonl").write_bytes(content)
    with pytest.raises(TokensError, match="found no file"):
        manifest_entries(tmp_path / "m.jsonl")


def test_a_name_in_latin_1(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes(b'{"path": "caf\xe9.wav"}')
    (entry,) = manifest_entries(tmp_path / "m.jsonl")
    assert os.fsencode(entry.path) == os.fsencode(tmp_path) + b"/caf\xe9.wav"


def test_a_manifest_from_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TokensError, match="read twice"):
        manifest_entries(tmp_path / "pipe")
