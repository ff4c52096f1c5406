"""Training in several processes, which are forks of one process; torchrun starts them where it restarts them."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codec.training import load_checkpoint
from codec.training.distributed import Processes, process_group
from forks import EndedTogether, Forks
from tiny_run import differences

# Plain gradient descent, because Adam turns the rounding of a gradient near zero into steps of full length.
SGD = [
    override
    for player in ("codec", "discriminator")
    for override in (
        f"optimizer.{player}._target_=torch.optim.SGD",
        f"~optimizer.{player}.betas",
        f"optimizer.{player}.lr=0.005",
    )
]
# Settings that keep rounding errors small. ELU has a continuous slope, a rectifier has not. Compressed spectra
# are steep at 0. The tonality of an untrained decoder is nearly constant, so its gradient is mostly rounding. At the
# decoder's learning rate, an error in the encoder grows tenfold in three steps.
SETTINGS = (
    "name=tiny", "data.batch_size=4", "trainer.max_steps=20", "balancer=encodec", "balancer.monitor_every=5",
    "trainer.log_every=5", "trainer.validate_every=10", "trainer.checkpoint_every=5",
    "trainer.codebooks.start_fraction=0.2", "trainer.encoder_lr_factor=0.01", "trainer.freeze_encoder_at=0.6",
    "codec.network.activation=elu", "discriminator.compression=1", "losses.weights.adversarial=0.1",
    "losses.weights.feature_matching=0.2", "losses.weights.tonality=0", *SGD,
)  # fmt: skip


Train = Callable[..., EndedTogether]


@pytest.fixture(scope="module")
def train(forks: Forks) -> Train:
    """Trains in forks, with the environment that torchrun sets, or under torchrun. See `torch_processes`.

    The exit statuses are those of the processes, or that of torchrun.
    """

    def request(folder: Path, launcher: int | list[str], *overrides: str, kill: str = "none") -> EndedTogether:
        return forks.together(folder, launcher, *SETTINGS, f"runs_folder={folder}", *overrides, kill=kill)

    return request


def held(folder: Path, rank: int, count: int) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / f"{rank} of {count}.pt", weights_only=True)
    return state


def tensors(value: Any, where: str = "") -> Iterator[tuple[str, Tensor]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, inner in items:
        if isinstance(inner, Tensor):
            yield f"{where}/{name}", inner
        else:
            yield from tensors(inner, f"{where}/{name}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, train: Train) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("alone")
    done = train(folder, 1)
    assert done.statuses == [0], done.stderr
    return held(folder, 0, 1)


def assert_equal_to_rounding(state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Codec, codebooks, averages, discriminator and balancer after 20 steps.

    Sums over half batches round differently, and training amplifies that: to 2e-4 of a tensor's norm on a CPU without
    AVX-512, less on others. A mean in place of the sum of codebook statistics changes them by 1.3e-3 and more.
    """
    expected_tensors = dict(tensors({name: expected[name] for name in ("codec", "average", "adversarial", "balancer")}))
    found = dict(tensors({name: state[name] for name in ("codec", "average", "adversarial", "balancer")}))
    assert found.keys() == expected_tensors.keys()
    for name, tensor in expected_tensors.items():
        size, error = tensor.double().norm(), (found[name].double() - tensor.double()).norm()
        assert error <= 1e-3 * size, f"{name}: off by {error / size:.2g}"


@pytest.mark.slow
def test_two_processes_equal_one_to_rounding_and_each_other_to_the_bit(
    tmp_path: Path, alone: dict[str, Any], train: Train
) -> None:
    done = train(tmp_path, 2)
    assert done.statuses == [0, 0], done.stderr
    first, second = held(tmp_path, 0, 2), held(tmp_path, 1, 2)
    assert differences(first, second) == ["/seconds"]
    assert_equal_to_rounding(first, alone)
    assert first["step"] == alone["step"] == 20
    # Only the main process logs and writes.
    assert done.stdout.count("step 20/20") == 1
    steps = {int(path.stem.removeprefix("step_")) for path in (tmp_path / "tiny" / "checkpoints").glob("step_*.pt")}
    assert {15, 20} <= steps


@pytest.mark.slow
def test_a_run_with_a_killed_process_ends_and_another_number_of_processes_resumes_it(
    tmp_path: Path, alone: dict[str, Any], train: Train
) -> None:
    done = train(tmp_path, 2, kill="1@12@SIGKILL")
    assert done.statuses == [1, -signal.SIGKILL], done.stderr
    assert not list(tmp_path.glob("*.pt"))
    resumed = train(tmp_path, 1)
    assert resumed.statuses == [0], resumed.stderr
    assert "resumed at step 10" in resumed.stdout
    assert_equal_to_rounding(held(tmp_path, 0, 1), alone)


@pytest.mark.slow
def test_torchrun_restarts_a_killed_run_and_it_resumes(tmp_path: Path, alone: dict[str, Any], train: Train) -> None:
    done = train(tmp_path, ["--standalone", "--nproc_per_node=2", "--max-restarts=1"], kill="0@17@SIGKILL")
    assert done.statuses == [0], done.stderr
    assert (tmp_path / "killed").exists()
    assert "resumed at step 15" in done.stdout
    assert_equal_to_rounding(held(tmp_path, 1, 2), alone)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step_and_saves(tmp_path: Path, train: Train) -> None:
    """The process that saves is not the one that got the signal. A run of one process can resume the checkpoint."""
    done = train(tmp_path, 2, kill="1@12@SIGTERM")
    assert done.statuses == [143, 143]
    assert done.stderr.count("saved at step 13; resume with: the same torchrun command") == 1
    state = load_checkpoint(tmp_path / "tiny").state
    assert state["step"] == 13
    steps = {int(path.stem.removeprefix("step_")) for path in (tmp_path / "tiny" / "checkpoints").glob("step_*.pt")}
    assert max(steps) == 13
    assert sum(state["meters"]["counts"].values()) > 0  # the sums of steps 11 to 13, over both processes


@pytest.mark.slow
def test_an_error_in_the_settings_ends_all_processes(tmp_path: Path, train: Train) -> None:
    done = train(tmp_path, 2, "data.batch_size=3")
    assert done.statuses == [1, 1]
    assert "data.batch_size must be a multiple of the number of processes, 2, got 3" in done.stderr


@pytest.mark.slow
def test_two_processes_roll_back_together(tmp_path: Path, train: Train) -> None:
    """The learning rate is a million times too high until the first rollback."""
    rates = ("optimizer.codec.lr=5000", "trainer.rollback.lr_factor=1e-6", "trainer.max_skipped_steps=3")
    done = train(tmp_path, 2, *rates)
    assert done.statuses == [0, 0], done.stderr
    assert done.stdout.count("Rolling back to step 0 with 1e-06 times the learning rates (rollback 1 of 3)") == 1
    first, second = held(tmp_path, 0, 2), held(tmp_path, 1, 2)
    assert differences(first, second) == ["/seconds"]
    assert first["divergence_monitor"]["rollbacks"] == 1
    assert first["step"] == 20


def test_a_single_process_needs_no_process_group() -> None:
    with process_group("cpu") as (processes, device):
        assert (processes.rank, processes.world_size, device.type) == (0, 1, "cpu")
        assert processes.is_main
    module, tensor = torch.nn.Linear(1, 1), torch.ones(2, 3)
    alone = Processes()
    assert alone.data_parallel(module, torch.device("cpu")) is module
    assert alone.all_reduce_mean(tensor) is tensor
    assert alone.all_gather(tensor) is tensor
    assert alone.all_gather_object(3) == [3]
    assert alone.broadcast_object("a") == "a"
    with alone.main_process_first():
        pass
