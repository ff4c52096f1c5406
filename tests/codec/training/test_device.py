"""Which device a run gets, and which settings of torch belong to it."""

import pytest
import torch

from codec.training.distributed import _own_gpu
from codec.training.startup.device import select_device
from codec.training.startup.precision import choose_precision
from scripts.ablation.run import _own_gpu as gpu_of_job


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("two_gpus")
def test_a_device_is_chosen_without_allocating_on_it() -> None:
    assert [select_device(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == ["cuda", "cpu", "cuda", "cuda:1"]
    for name, expected in (
        ("cuda:2", "2 GPUs are visible"),
        ("mps", "need float64"),
        ("gpu", "expected auto, cpu, cuda"),
    ):
        with pytest.raises(ValueError, match=expected):
            select_device(name)


@pytest.mark.usefixtures("two_gpus")
def test_each_process_gets_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _own_gpu(torch.device("cuda")) == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"set trainer\.device=cuda"):
        _own_gpu(torch.device("cuda:0"))
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="2 GPUs are visible"):
        _own_gpu(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # the launcher shows each process its own
    assert _own_gpu(torch.device("cuda")) == torch.device("cuda:0")


@pytest.mark.usefixtures("two_gpus")
def test_jobs_of_an_ablation_are_spread_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu_of_job("auto", job)["CUDA_VISIBLE_DEVICES"] for job in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert gpu_of_job("cuda", 1) == {"CUDA_VISIBLE_DEVICES": "7"}
    assert gpu_of_job("cuda:1", 1) == gpu_of_job("cpu", 1) == {}


def test_tf32_needs_cuda() -> None:
    assert choose_precision("tf32", "cuda").tf32
    assert not choose_precision("float32", "cuda").tf32
    with pytest.raises(ValueError, match="tf32 is supported on cuda, got device 'cpu'"):
        choose_precision("tf32", "cpu")
