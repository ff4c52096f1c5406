"""The figures of an ablation: which are drawn, and what they show."""

import re
from pathlib import Path

import pytest

from ablation_inputs import STRATEGIES, fail, make_ablation
from scripts.ablation.figures import draw, main

SCORES = ["speech/si_sdr_db", "music/mel_distance"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ablation(tmp_path_factory.mktemp("grid"), loss_ablations={"only-mel": "single_loss"}, seconds=0.1)


def texts(path: Path) -> str:
    """The texts of an SVG, which matplotlib keeps as comments beside their outlines."""
    return " ".join(re.findall(r"<!-- (.*?) -->", path.read_text()))


def test_all_figures_are_drawn_with_names_and_directions(folder: Path, tmp_path: Path) -> None:
    paths = {path.stem: path for path in draw(folder, tmp_path, "weighted_sum", SCORES)}
    assert set(paths) == {"quality", "costs", "gradients", "shares", "effects", "weights"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths.values())
    for name in ("quality", "costs", "shares", "effects", "weights"):
        assert all(strategy in texts(paths[name]) for strategy in STRATEGIES), name
        assert "only-mel" not in texts(paths[name])
    assert "speech: SI-SDR, dB, higher is better" in texts(paths["quality"])
    assert "lower is better" in texts(paths["quality"])
    assert "l1, adversarial" in texts(paths["gradients"])
    assert "10 adversarial" in texts(paths["weights"])
    assert {"share of l1, %", "share of adversarial, %"} <= set(
        re.findall(r"<!-- (.*?) -->", paths["effects"].read_text())
    )


def test_one_setting_of_the_weights_has_no_figure_of_weights(tmp_path: Path) -> None:
    folder = make_ablation(tmp_path / "grid", settings={"default": {}}, seeds=[0], seconds=0.1)
    fail(folder / "runs" / "encodec.default.seed0", "it diverged")
    for path in folder.glob("runs/*/metrics.jsonl"):
        path.write_text("")  # no curves either
    (path, _) = draw(folder, tmp_path / "figures", "weighted_sum", SCORES)
    assert path.name == "quality.svg"
    assert "encodec" not in texts(path)
    assert not {"gradients.svg", "shares.svg", "effects.svg", "weights.svg"} & {
        file.name for file in path.parent.iterdir()
    }


def test_without_the_baseline_there_is_nothing_to_draw(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run of gradnorm"):
        draw(folder, tmp_path / "figures", "gradnorm", SCORES)
    assert not (tmp_path / "figures").exists()


def test_the_command_prints_the_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(folder), str(tmp_path), "--scores", *SCORES])
    assert capsys.readouterr().out.split() == [
        str(path)
        for path in (
            tmp_path / f"{name}.svg" for name in ("quality", "costs", "gradients", "shares", "effects", "weights")
        )
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "gradnorm"], "no run of gradnorm"),
        (["--scores", "speech/pesk", SCORES[1]], "speech/pesk was not"),
    ],
)
def test_a_typo_is_one_line(
    folder: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        main([str(folder), str(tmp_path / "out"), "--scores", *SCORES, *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
