"""The search with Optuna in docs/training.md runs, with the package or with a stand-in for what it uses."""

import re
import runpy
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from config_options import ROOT
from tiny_command import TINY


class StandIn(ModuleType):
    """`create_study`, `Study.optimize` and `Trial.suggest_float`: the geometric mean of the bounds, then the lower."""

    Trial = object

    def create_study(self, *, storage: str, **settings: Any) -> Any:
        assert storage.startswith("sqlite:///")
        assert set(settings) == {"study_name", "direction", "load_if_exists"}
        found: dict[str, float] = {}

        def optimize(objective: Callable[[Any], float], n_trials: int) -> None:
            for number in range(n_trials):

                def suggest_float(name: str, low: float, high: float, log: bool, first: bool = number == 0) -> float:
                    assert log
                    return found.setdefault(name, (low * high) ** 0.5) if first else low

                assert isinstance(objective(SimpleNamespace(number=number, suggest_float=suggest_float)), float)

        return SimpleNamespace(optimize=optimize, best_params=found)


@pytest.mark.slow
def test_the_search_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec("optuna") is None:
        monkeypatch.setitem(sys.modules, "optuna", StandIn("optuna"))
    document = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(import optuna.*?|from pathlib.*?)^```$", document, re.DOTALL | re.MULTILINE)
    assert code.count("distillmos") == 2
    small = ["trainer.max_steps=2", *TINY, f"runs_folder={tmp_path}"]
    code = code.replace('"trainer.max_steps=1000", "validation.metrics=[distillmos]"', f"*{small}")
    code = code.replace("sqlite:///runs/", f"sqlite:///{tmp_path}/").replace("n_trials=20", "n_trials=2")
    code = code.replace("speech/distillmos", "speech/mel_distance")
    (tmp_path / "search.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("codec.training.logging.live_report.write_report", lambda folder, running: None)
    runpy.run_path(str(tmp_path / "search.py"))
    weights = [OmegaConf.load(tmp_path / f"search_{number}" / "config.yaml").losses.weights for number in range(2)]
    assert weights[0].l1 != weights[1].l1
    best = capsys.readouterr().out.splitlines()[-1]
    assert {"l1", "adversarial"} == set(re.findall(r"'(\w+)'", best))
