"""The grid of an ablation: which runs it has, how their configurations differ, and which settings it refuses."""

from collections import defaultdict
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from scripts.ablation.grid import check_grid, grid_runs, run_config
from scripts.parts import instantiate
from tiny_command import ROOT, composed


def run_configs(*overrides: str) -> dict[str, DictConfig]:
    """The training configuration of every run."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("ablate", list(overrides))
        check_grid(cfg)
        return {name: run_config(cfg, run) for name, run in grid_runs(cfg).items()}


def test_the_default_grid_has_eight_strategies_and_three_seeds() -> None:
    runs = run_configs()
    cfg = composed("ablate")
    assert len(cfg.strategies) == 8
    assert len(runs) == 24
    assert {name.partition(".")[0] for name in runs} == set(cfg.strategies)
    for name, train in runs.items():
        assert train.init_from == "runs/starter_seanet"
        assert train.name == name
        assert train.runs_folder == "runs/ablations/starter_seanet/runs"
        assert train.adversarial.start_fraction == 0
        assert (train.optimizer.codec.lr, train.optimizer.discriminator.lr) == (1e-4, 3e-4)
        assert train.trainer.max_steps == 120
        assert train.trainer.validate_every == 60
        assert train.trainer.rollback.max_rollbacks == 0
        instantiate(train.balancer)


def test_runs_of_one_seed_differ_only_in_the_balancer() -> None:
    by_seed = defaultdict(list)
    for train in run_configs().values():
        settings: Any = OmegaConf.to_container(train, resolve=True)
        by_seed[settings["seed"]].append({k: v for k, v in settings.items() if k not in ("name", "balancer")})
    assert sorted(by_seed) == [0, 1, 2]
    for runs in by_seed.values():
        assert all(run == runs[0] for run in runs)


def test_a_strategy_can_have_overrides() -> None:
    strategy = "pcgrad balancer/scale=ema_norm balancer.scale.decay=0.9"
    runs = run_configs(f'strategies=[weighted_sum,"{strategy}"]', "seeds=[4]")
    name = "pcgrad-balancer-scale-ema_norm-balancer.scale.decay-0.9.default.seed4"
    assert list(runs) == ["weighted_sum.default.seed4", name]
    balancer = runs[name].balancer
    assert balancer.direction._target_ == "balancer.PCGrad"
    assert balancer.scale._target_ == "balancer.EmaNorm"
    assert balancer.scale.decay == 0.9
    assert runs[name].seed == 4


def test_a_strategy_can_have_a_name() -> None:
    runs = run_configs('strategies=[weighted_sum,{twice: "weighted_sum losses.weights.mel=4"}]', "seeds=[4]")
    assert list(runs) == ["weighted_sum.default.seed4", "twice.default.seed4"]
    assert [train.losses.weights.mel for train in runs.values()] == [2, 4]


def test_a_strategys_own_magnitude_has_precedence() -> None:
    overrides = ('strategies=[weighted_sum,"encodec balancer/magnitude=keep"]', "seeds=[0]", "magnitude=match_sum")
    targets = [train.balancer.magnitude._target_ for train in run_configs(*overrides).values()]
    assert targets == ["balancer.MatchSum", "balancer.Keep"]


def test_weights_are_factors_of_the_loss_weights() -> None:
    weights = "weights=[{},{adversarial:10},{adversarial:100,mel:0.5}]"
    runs = run_configs("strategies=[weighted_sum]", "seeds=[0]", weights)
    default, tenfold, both = runs.values()
    assert list(runs) == [
        "weighted_sum.default.seed0",
        "weighted_sum.adversarial-x10.seed0",
        "weighted_sum.adversarial-x100-mel-x0.5.seed0",
    ]
    first = default.losses.weights
    assert dict(tenfold.losses.weights) == {**first, "adversarial": 10 * first.adversarial}
    assert dict(both.losses.weights) == {**first, "adversarial": 100 * first.adversarial, "mel": 0.5 * first.mel}
    assert both.balancer.weights == both.losses.weights


def test_loss_ablations_are_single_loss_and_leave_one_out() -> None:
    runs = run_configs(
        *("strategies=[weighted_sum,encodec]", "baseline=encodec", "seeds=[0]"),
        "loss_ablations=[single_loss,leave_one_out]",
    )
    first = runs["encodec.default.seed0"].losses.weights
    assert len(runs) == 2 + 2 * len(first)
    for loss in first:
        single, others = runs[f"only-{loss}.default.seed0"], runs[f"without-{loss}.default.seed0"]
        assert dict(single.losses.weights) == {name: first[name] if name == loss else 0 for name in first}
        assert dict(others.losses.weights) == {name: 0 if name == loss else first[name] for name in first}
        assert single.balancer.scale == others.balancer.scale == runs["encodec.default.seed0"].balancer.scale


def test_from_scratch_with_a_budget_in_minutes() -> None:
    settings = ("start=from_scratch", "max_steps=null", "max_minutes=2")
    (train,) = run_configs("strategies=[weighted_sum]", "seeds=[1]", *settings).values()
    assert train.init_from is None
    assert (train.trainer.max_steps, train.trainer.max_minutes) == (None, 2)
    assert train.trainer.init == composed("train", "experiment=starter_seanet").trainer.init == "pca"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["strategies=[]"], ["strategies", "[]"]),
        (["strategies=weighted_sum"], ["strategies", "list", "weighted_sum"]),
        (["strategies=[weighted_sum,1]"], ["strategies", "got 1"]),
        (["strategies=[weighted_sum,encodec,encodec]"], ["strategies", "two", "encodec"]),
        (["strategies=[weighted_sum,{a: encodec,b: gradnorm}]"], ["strategies", "{name:", "gradnorm"]),
        (["strategies=[weighted_sum,{a: [encodec]}]"], ["strategies", "{name:", "encodec"]),
        (["strategies=[weighted_sum,{a: encodecc}]"], ["balancer=encodecc", "encodec"]),
        (["strategies=[weighted_sum,{_: encodec}]"], ["strategies", "letters or digits", "'_'"]),
        (["seeds=[0,0]"], ["weighted_sum.default.seed0", "repeated"]),
        (["seeds=[]"], ["seeds", "[]"]),
        (["seeds=[-1]"], ["seeds", "at least 0", "-1"]),
        (["weights=[]"], ["weights", "[]"]),
        (["weights=[{adversarail:10}]"], ["weights", "adversarail", "l1, mel, adversarial"]),
        (["weights=[{adversarial:-1}]"], ["weights", "at least 0", "-1"]),
        (["weights=[adversarial]"], ["weights", "{loss: factor}", "adversarial"]),
        (["metrics=[]"], ["metrics", "[]"]),
        (["max_minutes=1"], ["minutes"]),
        (["max_steps=null"], ["steps"]),
        (["start=from_bsae"], ["start", "from_base or from_scratch", "'from_bsae'"]),
        (["loss_ablations=[single_loss,left]"], ["loss_ablations", "single_loss or leave_one_out", "'left'"]),
        (["baseline=mgda"], ["baseline=mgda", "weighted_sum, encodec", "add it"]),
        (["name=../x"], ["name", "../x"]),
    ],
)  # fmt: skip
def test_invalid_grids_are_refused(overrides: list[str], named: list[str]) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        run_configs(*overrides)
    for text in named:
        assert text in str(caught.value)


def test_the_slurm_launcher_composes() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    overrides = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=30"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("ablate", overrides, return_hydra_config=True)
    launcher = cfg.hydra.launcher
    assert launcher._target_.endswith(".SlurmLauncher")
    assert (launcher.partition, launcher.timeout_min) == ("gpu", 30)
    OmegaConf.set_struct(cfg, False)
    cfg.hydra.job.name = "ablate"
    assert launcher.submitit_folder == "runs/ablations/starter_seanet/.submitit/%j"
