"""The benchmarks: their arithmetic, and that they run with tiny settings. Measured times are not asserted."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encodec.model import EncodecModel
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from balancer import Balancer
from codec_inputs import seanet_config
from encodec_weights import encodec_model
from scripts.bench import balancers as bench_balancers
from scripts.bench import coding as bench_coding
from scripts.bench import data as bench_data
from scripts.bench import growth as bench_growth
from scripts.bench import machine
from scripts.bench import parts as bench_parts
from scripts.bench import precision as bench_precision
from scripts.bench import shards as bench_shards
from scripts.bench import startup as bench_startup
from scripts.bench import step as bench
from scripts.bench.step import AUDIOCRAFT, Worker
from scripts.composition import CONFIGS
from scripts.run_folder import check_keys
from tiny_run import tidied, tiny_adversarial, tiny_trainer

# With 128 dimensions, the 32 codebooks of 1024 codes would have 17 MB, which each checkpoint holds twice.
SMALL = (
    "codec.network.filters=2",
    "codec.network.latent_dim=8",
    "codec.network.lstm_layers=0",
    "discriminator.filters=2",
)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads, which is global."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_coders_alternate_and_agreement_is_counted_per_frame(threads: None) -> None:
    calls = []

    def coder(name: str, codes: Tensor) -> bench_coding.Coder:
        return bench_coding.Coder(
            lambda audio: (calls.append((name, "encode", tuple(audio.shape))), codes)[1],
            lambda codes: (calls.append((name, "decode", tuple(codes.shape))), torch.zeros(1))[1],
        )

    codes = torch.zeros(2, 3, 4)
    other = codes.clone()
    other[0, 1, 2] = other[0, 2, 2] = 1  # one of eight frames
    row = bench_coding.measure({"ours": coder("ours", codes), "peer": coder("peer", other)}, 1, 2, 0.5, rounds=2)
    one_round = [("ours", "encode", (2, 1, 12_000)), ("ours", "decode", (2, 3, 4)),
                 ("peer", "encode", (2, 1, 12_000)), ("peer", "decode", (2, 3, 4))]  # fmt: skip
    assert calls == 3 * one_round  # the first round is a warm-up
    assert {name: len(seconds) for name, seconds in row.encode.items()} == {"ours": 2, "peer": 2}
    assert row.agreement == {"ours": 1.0, "peer": 7 / 8}


def test_coding_compared_with_both_packages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, threads: None
) -> None:
    """With a narrow model of the package's architecture."""
    config = seanet_config(filters=4, latent_dim=16)
    monkeypatch.setattr(EncodecModel, "encodec_model_24khz", lambda pretrained: encodec_model(config))
    path = tmp_path / "figures.json"
    bench_coding.main(["--seconds", "0.5", "--batch", "2", "--threads", "1", "--rounds", "1", "--json", str(path)])
    (row,) = json.loads(path.read_text())["coding"]
    assert set(row["encode"]) == set(row["decode"]) == {"ours", "encodec", "transformers"}
    assert min(row["agreement"].values()) > 0.95  # rounding may decide between two codes
    assert "2 x 0.5 s" in capsys.readouterr().out


def test_a_strategy_with_refresh_every_counts_with_the_mean_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The balancer takes 2 of 5 s in steps with per-loss gradients, 1 of 4 s in the others."""

    def taken(_trainer: object, balancer: Balancer, _audio: Tensor) -> bench_balancers._Seconds:
        refreshes = balancer is balancers["encodec"] and balancer.step % 8 == 0
        return bench_balancers._Seconds(2, 5) if refreshes else bench_balancers._Seconds(1, 4)

    with tidied():
        trainer = tiny_trainer(tmp_path)
        balancers = {
            name: bench_balancers.make_balancer(trainer.balancer.weights, name) for name in ("weighted_sum", "encodec")
        }
        assert balancers["encodec"].refresh_every == 8
        monkeypatch.setattr(bench_balancers, "_time_step", taken)
        ratios = bench_balancers.time_steps(trainer, balancers, 3)
    assert ratios == {"weighted_sum": ([1] * 3, [1] * 3), "encodec": ([1 + 0.125 / 4] * 3, [33 / 32] * 3)}


def test_the_balancers_part_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The discriminator takes 3 s and the balancer 2 s."""
    clock = [0.0]
    monkeypatch.setattr(bench_balancers, "clock", lambda: clock[0])

    def slowed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            clock[0] += seconds
            return function(*arguments)

        return slow

    with tidied():
        trainer = tiny_trainer(tmp_path, adversarial=tiny_adversarial())
        monkeypatch.setattr(trainer.adversarial, "generator_losses", slowed(trainer.adversarial.generator_losses, 3))  # type: ignore[union-attr]
        balancer = bench_balancers.make_balancer(trainer.balancer.weights, "upgrad")
        monkeypatch.setattr(balancer, "_balance", slowed(balancer._balance, 2))
        taken = bench_balancers._time_step(trainer, balancer, trainer.data.batch(0))
        assert (taken.part, taken.step) == (2, 5)
        assert trainer.balancer is balancer
        assert not balancer._forward_hooks
        assert not balancer._forward_pre_hooks
    monkeypatch.undo()
    assert bench_balancers.time_arithmetic(balancer, values=100, repeats=2) > 0


def test_growth_is_a_line_and_an_exponent() -> None:
    line = bench_growth.growth([1, 2, 4, 8], [5, 8, 14, 26])
    assert (line.fixed, line.rate) == (pytest.approx(2), pytest.approx(3))
    assert 0.8 < line.exponent < 1
    assert bench_growth.growth([1, 2, 4], [1, 4, 16]).exponent == pytest.approx(2)
    with pytest.raises(ValueError, match="two sizes or more"):
        bench_growth.growth([1], [1])


@pytest.mark.parametrize("name", bench_growth.SERIES)
def test_the_overrides_of_every_series_compose(name: str) -> None:
    seen = set()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for overrides in bench_growth.SERIES[name][1].values():
            cfg = compose("train", [*AUDIOCRAFT, *overrides])
            check_keys(cfg)
            assert set(cfg.losses.terms) < set(cfg.losses.weights)
            seen.add(json.dumps(OmegaConf.to_container(cfg, resolve=True), sort_keys=True))
    assert len(seen) == len(bench_growth.SERIES[name][1])


def test_growth_table_plot_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Worker:
        """A step takes one second and one GiB per signal."""

        def __init__(self, command: list[str]) -> None:
            assert command[1:5] == ["-m", "scripts.bench.step", "work", "codec.network.filters=8"]
            assert command[6:] == ["--precision=auto"]
            self.size = int(command[5].removeprefix("data.batch_size="))
            self.seconds: list[float] = []

        def step(self) -> None:
            self.seconds.append(float(self.size))

        def close(self) -> int:
            return self.size << 30

    monkeypatch.setattr(bench_growth, "Worker", Worker)
    plot, path = tmp_path / "growth.svg", tmp_path / "growth.json"
    bench_growth.main(["--series", "batch", "--plot", str(plot), "--json", str(path), "--", "codec.network.filters=8"])
    found = json.loads(path.read_text())["growth"]["batch"]
    assert found["sizes"] == found["seconds"] == found["gib"] == [1, 2, 4, 8]
    assert found["seconds_growth"] == pytest.approx([0, 1, 1], abs=1e-9)
    assert "time: 0.000 + 1.000 x size, last exponent 1.00" in capsys.readouterr().out.replace("-0.000", "0.000")
    assert plot.read_text().startswith("<?xml")


def test_precisions_are_compared_at_the_same_seed_and_seeds_in_float32() -> None:
    exact = {0: np.array([1.0, 2.0]), 1: np.array([3.0, 2.0])}
    auto = {0: np.array([1.2, 1.9]), 1: np.array([2.8, 2.3])}
    found = bench_precision.differences({"float32": exact, "auto": auto})
    assert found == pytest.approx(((0.1 + 0.05 + 0.1 + 0.15) / 4, 0.5, (0.1 - 0.05 - 0.1 + 0.15) / 4))
    # Negative losses, such as the adversarial one, are divided by their magnitude.
    below = [{seed: -curve for seed, curve in of.items()} for of in (exact, auto)]
    of_below = bench_precision.differences({"float32": below[0], "auto": below[1]})
    assert of_below == pytest.approx((found.precision, found.seeds, -found.signed))
    with pytest.raises(ValueError, match="two seeds or more"):
        bench_precision.differences({"float32": {0: exact[0]}, "auto": {0: auto[0]}})


@pytest.mark.slow
def test_precision_table_plot_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_precision, "_LOG_EVERY", 2)
    plot, path = tmp_path / "precision.svg", tmp_path / "precision.json"
    small = [*SMALL, "discriminator.windows=[256]", "losses.terms.mel.window_exponents=[6]", "data.segment_seconds=0.1"]
    small += ["data.held_out.seconds=0.5", "trainer.codebooks.init_batches=2"]
    outputs = ["--plot", str(plot), "--json", str(path)]
    with tidied():
        bench_precision.main(["--steps", "2", "--seeds", "0", "1", *outputs, "--", *small])
    found = json.loads(path.read_text())
    assert set(found["differences"]) == set(found["curves"])
    assert {"loss/l1", "loss/mel", "loss/adversarial", "loss/feature_matching"} == set(found["curves"])
    for loss, curves in found["curves"].items():
        assert {p: {s: len(c) for s, c in of.items()} for p, of in curves.items()} == {
            "float32": {"0": 1, "1": 1}, "auto": {"0": 1, "1": 1}
        }, loss  # fmt: skip
        assert curves["float32"]["0"] != curves["float32"]["1"]
    assert "two seeds" in capsys.readouterr().out
    assert plot.read_text().startswith("<?xml")


class FakeWorker:
    """Steps of audiocraft take 4 s in bfloat16 and 9 s in float32; ours 2 s, 3 s with refresh_every=1."""

    def __init__(self, command: list[str]) -> None:
        self.facts = {"precision": command[-1]}
        self.seconds: list[float] = []
        ours = 3.0 if "balancer.refresh_every=1" in command else 2.0
        self.takes = ours if "work" in command else 9.0 if command[-1] == "--precision=float32" else 4.0

    def step(self) -> float:
        self.seconds.append(self.takes)
        return self.takes

    def close(self) -> int:
        return int(self.takes * 2**30)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("float32", ["refresh_every=8, compared with audiocraft: 4.50 times as fast, 0.22 of the memory",
                     "refresh_every=1, compared with audiocraft: 3.00 times as fast, 0.33 of the memory"]),
        ("auto", ["refresh_every=8, compared with audiocraft: 2.00 times as fast, 0.50 of the memory",
                  "refresh_every=8, compared with audiocraft in float32: 4.50 times as fast, 0.22 of the memory",
                  "refresh_every=1, compared with audiocraft: 1.33 times as fast, 0.75 of the memory",
                  "refresh_every=1, compared with audiocraft in float32: 3.00 times as fast, 0.33 of the memory"]),
    ],
)  # fmt: skip
def test_ratios_of_training_steps(
    precision: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(bench, "Worker", FakeWorker)
    path = tmp_path / "figures.json"
    options = ["--precision", precision, "--rounds", "2", "--peer", "python", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench", "step", *options])
    bench.main()
    assert [line.strip() for line in capsys.readouterr().out.splitlines() if "compared with" in line] == expected
    rows = json.loads(path.read_text())["step"]
    assert all(len(row["seconds"]) == 2 for row in rows.values())
    monkeypatch.setattr(sys, "argv", ["bench", "step", "--precision", precision])
    bench.main()
    assert "compared with" not in capsys.readouterr().out


def test_the_machine_is_described_by_cpu_and_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = "cpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 amx_bf16 avx512f_more\n\n"
    (tmp_path / "cpuinfo").write_text(2 * core)
    monkeypatch.setattr("codec.training.startup.cpu._CPUINFO", tmp_path / "cpuinfo")
    name, cores, features, *_, version = machine.describe_machine().split(", ")
    assert name == "Some CPU family 6 model 143"
    assert int(cores.removesuffix(" cores")) >= 1
    assert features == "avx2 amx_bf16"
    assert version == f"torch {torch.__version__}"
    monkeypatch.setattr("codec.training.startup.cpu._CPUINFO", tmp_path / "missing")
    assert "no AVX" in machine.describe_machine()


@pytest.mark.slow
def test_a_worker_steps_with_its_overrides() -> None:
    small = [*SMALL, "codec.quantizer.kmeans_iterations=1", "data.batch_size=1", "data.segment_seconds=0.2"]
    worker = Worker([sys.executable, "-m", "scripts.bench.step", "work", *small, "--precision=float32"])
    assert worker.step() > 0
    assert len(worker.seconds) == 1
    assert worker.close() > 1 << 20


def test_imports_are_timed_in_a_separate_process() -> None:
    assert bench_startup._import_seconds("colorsys") > 0
    assert bench_startup._import_seconds("time; time.sleep(0.5)") >= 0.5


@pytest.mark.slow
def test_startup(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_startup, "_import_seconds", len)
    monkeypatch.setattr(bench_startup, "_VECTORS", (300,))
    path = tmp_path / "figures.json"
    small = [*SMALL, "codec.quantizer.kmeans_iterations=1", "data.batch_size=1", "data.segment_seconds=0.2"]
    bench_startup.main(["--rounds", "1", "--precision", "float32", "--json", str(path), "--", *small])
    found = json.loads(path.read_text())["startup"]
    assert [len(seconds) for seconds in found.values()] == [1] * 5
    assert found["import torch"] == [len("torch")]
    assert found["import codec.coding"] == [len("codec.coding")]
    assert min(seconds[0] for seconds in found.values()) > 0
    assert "first training step" in capsys.readouterr().out


def test_reading_all_formats_and_a_large_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def training_rate(experiment: Sequence[str]) -> float:
        asked.append(experiment[0])
        return 2.0

    monkeypatch.setattr(bench_data, "_training_rate", training_rate)
    path = tmp_path / "figures.json"
    bench_data.main(["--seconds", "2", "--batches", "2", "--files", "2000", "--json", str(path)])
    found: dict[str, Any] = json.loads(path.read_text())
    assert asked == ["experiment=audiocraft_24khz", "experiment=starter_seanet"]
    assert {name.split(",")[0] for name in found["reading"]} == {"wav", "flac", "ogg", "mp3"}
    assert len(found["reading"]) == 8
    assert min(found["reading"].values()) > 0
    printed = capsys.readouterr().out
    vorbis = found["reading"]["ogg, 44100 Hz, stereo"]
    assert f"{vorbis / 2:.0f} x paper-size model" in printed
    assert f"{math.ceil(320 / vorbis)} workers for 320" in printed
    assert "a manifest of 2000 files opens in" in printed


def test_steps_wait_for_archives_on_a_slow_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every byte passes through the disk, which takes a latency and the time of the bytes for each access."""
    slept: list[float] = []
    monkeypatch.setattr(bench_shards.time, "sleep", slept.append)
    disk = bench_shards.SlowDisk(str(tmp_path / "lock"), 0.25, 1e6)
    disk.access(500_000)
    assert slept == [0.75]
    address = bench_shards.write_shards(tmp_path, 10, 2, 2.0)  # the last two are links
    paths = sorted(tmp_path.glob("*.tar"))
    assert [path.stem for path in paths] == [f"{number:05d}" for number in range(10)]
    slept.clear()
    found = bench_shards.measure(address, disk, 0, 10, 0.125, 1)  # two batches are one pass
    assert slept.count(0.25) == 10  # an opening has no bytes
    opened = [seconds - 0.25 for seconds in slept if seconds > 0.25]
    assert sum(opened) * 1e6 == pytest.approx(sum(path.stat().st_size for path in paths), rel=0.3)
    assert slept.count(0.125) == found.steps == 1
    assert 0 <= found.share <= 1
    assert found.longest_seconds == found.waited_seconds <= found.total_seconds
    path = tmp_path / "figures.json"
    bench_shards.main(["--shards", "4", "--files", "1", "--seconds", "1", "--batch", "2", "--steps", "2",
                       "--latency-ms", "0", "--step-seconds", "0", "--workers", "0", "--json", str(path)])  # fmt: skip
    assert json.loads(path.read_text())["workers"]["0"]["steps"] == 2
    assert "0 workers: steps wait" in capsys.readouterr().out


def test_operations_of_parts_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str], threads: None) -> None:
    linear, lstm = torch.nn.Linear(3, 5), torch.nn.LSTM(4, 6, 2)
    assert bench_parts.operations(lambda: linear(torch.zeros(7, 3))) == 2 * 7 * 3 * 5
    gates = 4 * 6
    assert bench_parts.operations(lambda: lstm(torch.zeros(9, 2, 4))) == 2 * 9 * 2 * gates * ((4 + 6) + (6 + 6))
    path = tmp_path / "figures.json"
    options = ["--seconds", "0.5", "--codecs", "codec=factorized", "--discriminators", "small", "--json", str(path)]
    bench_parts.main([*options, "--rounds", "1"])
    costs = json.loads(path.read_text())["costs"]
    codec = costs["codec=factorized"]
    # 75 frames a second, 8 codebooks: a map from 128 to 8 dimensions, and 1024 codes; then the map back.
    assert codec["search"]["operations"] == pytest.approx(75 * 8 * 2 * (128 * 8 + 8 * 1024), rel=0.02)
    assert codec["sum"]["operations"] == pytest.approx(75 * 8 * 2 * 8 * 128, rel=0.02)
    assert codec["encoder"]["weights"] + codec["decoder"]["weights"] == pytest.approx(1.42e6, rel=0.01)
    assert codec["encoder"]["operations"] == pytest.approx(0.31e9, rel=0.05)
    assert costs["discriminator=small"]["pass"]["cpu_seconds"] > 0
    assert "| encode, ms | decode, ms |" in capsys.readouterr().out
    bench_parts.main([*options, "--rounds", "0"])
    assert "ms |" not in capsys.readouterr().out


def test_a_manifest_of_many_files_costs_less_than_a_kilobyte_each(tmp_path: Path) -> None:
    assert bench_data.manifest_cost(20_000, tmp_path).bytes_per_file < 1000
