"""Fixtures of the command tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from codec.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must exit with 1 and returns its one line on stderr."""

    def failing(*arguments: str | Path) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("codec: ")
        assert error.count("\n") == 1
        return error.strip().removeprefix("codec: ")

    return failing
