"""Which model: bundled ones, runs, files, and the lookup by fingerprint."""

from pathlib import Path

import pytest
import torch

import codec
from codec.bundled import bundled_models
from codec.model_file import ModelFileError, stored_fingerprint
from codec.models import describe_fingerprint, find_model, model_name, model_path
from coding_inputs import save_tiny, tiny_codec


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Fingerprints of the models below ./runs."""
    monkeypatch.chdir(tmp_path)
    found = {}
    for folder in (Path("runs"), Path("runs/ablations/a")):
        name = save_tiny("causal", folder, filters=4 if len(folder.parts) == 1 else 3)
        found[name] = codec.fingerprint(codec.load(name))
    return found


def test_bundled_models_are_found_by_name_and_by_fingerprint() -> None:
    models = bundled_models()
    assert next(iter(models)) == "general"
    assert model_path() == model_path("bundled") == model_path("general") == models["general"]
    assert sum(path.stat().st_size for path in models.values()) < 16_000_000
    for name, path in models.items():
        fingerprint = codec.fingerprint(codec.load(name))
        assert find_model(fingerprint) == path
        assert fingerprint == stored_fingerprint(path)
        assert fingerprint in path.with_name("README.md").read_text(encoding="utf-8")
        assert describe_fingerprint(fingerprint) == f"the bundled model {name} ({fingerprint})"


def test_a_run_is_given_by_its_folder_its_file_or_its_checkpoint(runs: dict[str, str]) -> None:
    file = Path("runs/causal/model.safetensors")
    assert model_path("runs/causal") == model_path(Path("runs/causal/")) == model_path(file) == file
    assert model_name(file) == "runs/causal"
    assert model_name(Path("runs/other.safetensors")) == "runs/other.safetensors"
    codes = tiny_codec("causal").encode(torch.ones(1, 1, 3200), 24_000)
    assert torch.equal(codec.load("runs/causal").encode(torch.ones(1, 1, 3200), 24_000), codes)


def test_a_fingerprint_finds_its_run(runs: dict[str, str]) -> None:
    assert len(set(runs.values())) == 2
    Path("runs/broken").mkdir()
    Path("runs/broken/model.safetensors").write_bytes(b"not a model")
    for run, fingerprint in runs.items():
        assert find_model(fingerprint) == Path(run) / "model.safetensors"
        assert describe_fingerprint(fingerprint) == f"{run} ({fingerprint})"
    assert find_model("0" * 16) is None
    assert describe_fingerprint("0" * 16) == "0" * 16


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("runs/casual", "no model at runs/casual: did you mean runs/causal"),
        ("genral", "did you mean general"),
        ("xyz", "expected a run's folder, a file, or bundled, general"),
        ("runs", "runs is a folder without model.safetensors"),
    ],
)
def test_a_model_that_does_not_exist_is_an_error_with_the_nearest_name(
    runs: dict[str, str], source: str, message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        codec.load(source)


def test_a_bundled_name_wins_over_a_folder_of_that_name(runs: dict[str, str]) -> None:
    Path("runs/causal").rename("general")
    assert model_path("general") == bundled_models()["general"]
    assert model_path("./general") == Path("general/model.safetensors")
