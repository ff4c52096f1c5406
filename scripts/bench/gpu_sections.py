"""The sections of scripts/bench/gpu_check.py."""

import copy
import itertools
import statistics
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from codec.quantization.ieee import allow_tf32
from codec.streaming import StreamingDecoder, StreamingEncoder
from codec.training import Trainer
from codec.training.batches import TrainingData
from scripts.bench.audit import audited_trainer, take_step
from scripts.bench.balancers import make_balancer, time_steps
from scripts.bench.machine import clock
from scripts.composition import CONFIGS

__all__ = ["Check", "balancers", "coding", "compiled", "equal", "learning", "loader", "nccl", "resume", "steps"]

_ROOT = str(Path(__file__).resolve().parents[2]) + "/"


class Check:
    """The device, the time, and what was found.

    Args:
        device: The device to check.
        tiny: Whether models are small and repetitions few.
        deadline: `time.monotonic()` at which the check should end.

    Attributes:
        found: Name -> text.
    """

    def __init__(self, device: torch.device, tiny: bool, deadline: float) -> None:
        self.device, self.tiny, self.deadline = device, tiny, deadline
        self.found: dict[str, str] = {}

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def note(self, name: str, text: str) -> None:
        self.found[name] = text
        print(f"{name:<44} {text}", flush=True)

    @contextmanager
    def trainer(self, experiment: str, *overrides: str, device: str | None = None) -> Iterator[Trainer]:
        """A trainer whose codebooks are initialized, on the device of the check if none is given."""
        chosen = str(self.device) if device is None else device
        with audited_trainer(experiment, overrides, chosen, narrow=self.tiny) as trainer:
            try:
                yield trainer
            finally:
                torch.use_deterministic_algorithms(False)
                allow_tf32(False)


def equal(check: Check) -> None:
    """The same weights and audio on the CPU and on the device."""
    for experiment in ("starter", "starter_seanet", "encodec_24khz", "encodec_48khz"):
        with check.trainer(experiment, "trainer.init=random", device="cpu") as trainer:
            audio = trainer.data.batch(0)
            reference = _passes(trainer, audio, torch.device("cpu"))
            for tf32 in (False, True) if check.device.type == "cuda" else (False,):
                allow_tf32(tf32)
                found = _passes(trainer, audio, check.device)
                errors = {name: _relative(value, reference[name]) for name, value in found.items() if name != "codes"}
                worst = max(errors, key=errors.__getitem__)
                same = float((found["codes"] == reference["codes"]).double().mean())
                text = (
                    f"largest error {errors[worst]:.1e} ({worst}), audio {errors['audio']:.1e}, codes equal {same:.4f}"
                )
                check.note(f"equal/{experiment}{'/tf32' if tf32 else ''}", text)


def _passes(trainer: Trainer, audio: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Outputs, losses and gradients, on the CPU."""
    codec = copy.deepcopy(trainer.averaged_codec).to(device).train()  # cuDNN needs it for gradients through an LSTM
    audio = audio.to(device)
    output = codec(audio)
    estimate = output.audio.detach().requires_grad_()
    losses = {name: copy.deepcopy(loss).to(device)(estimate, audio) for name, loss in trainer.losses.items()}
    assert trainer.adversarial is not None
    discriminator = copy.deepcopy(trainer.adversarial.discriminator).to(device)
    losses |= trainer.adversarial.loss.generator_losses(discriminator(estimate), discriminator(audio))
    found = {"audio": output.audio, "latent": output.latent, "codes": codec.encode_segments(audio)[0].codes}
    for name, loss in losses.items():
        found[f"loss {name}"] = loss
        found[f"gradient {name}"] = torch.autograd.grad(loss, [estimate], retain_graph=True)[0]
    output.audio.backward(estimate.detach())
    found["weights"] = torch.cat([p.grad.flatten() for p in codec.parameters() if p.grad is not None])
    return {name: value.detach().cpu() for name, value in found.items()}


def _relative(estimate: Tensor, reference: Tensor) -> float:
    return float((estimate - reference).double().norm() / reference.double().norm().clamp_min(1e-30))


def steps(check: Check) -> None:
    """Steps of the paper's model at batch 64 and of both starters, in each precision."""
    cases = [("encodec_24khz", 64), ("starter", 8), ("starter_seanet", 8)]
    precisions = ("bfloat16", "float32", "tf32") if check.device.type == "cuda" else ("float32",)
    for (experiment, batch), precision in itertools.product(cases, precisions):
        size = f"data.batch_size={2 if check.tiny else batch}"
        settings = ["trainer.init=random", "adversarial.start_fraction=0", size, f"trainer.precision={precision}"]
        with check.trainer(experiment, *settings) as trainer:
            _time_steps(check, f"steps/{experiment}/{precision}", trainer)


def compiled(check: Check) -> None:
    """Steps of the starters with compiled networks, to compare with `steps`."""
    experiments, modes = ("starter", "starter_seanet"), ("default", "reduce-overhead")
    for experiment, mode in itertools.product(experiments[: 1 if check.tiny else 2], modes[: 1 if check.tiny else 2]):
        size = f"data.batch_size={2 if check.tiny else 8}"
        settings = ["trainer.init=random", "adversarial.start_fraction=0", size, f"trainer.compile={mode}"]
        with check.trainer(experiment, *settings, "trainer.precision=float32") as trainer:
            backend = "aot_eager" if check.tiny else "inductor"  # which makes no kernels
            begun = time.monotonic()
            trainer.startup.compile_networks(trainer.adversarial, trainer.config, trainer.step, backend)
            check.note(f"compiled/{experiment}/{mode}/start", f"{time.monotonic() - begun:.0f} s")
            _time_steps(check, f"compiled/{experiment}/{mode}", trainer)


def _time_steps(check: Check, name: str, trainer: Trainer) -> None:
    audio = trainer.data.batch(0).to(check.device)

    def step() -> None:
        trainer.meters.add(trainer.train_step(audio), time.monotonic())
        trainer.step += 1

    for _ in range(1 if check.tiny else 5):
        step()
    on_gpu = check.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = [_seconds(step) for _ in range(2 if check.tiny else 20)]
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan")
    median = statistics.median(seconds)
    rate = trainer.data.seconds_per_step / median
    text = f"{1000 * median:.1f} ms, {rate:.0f} s of audio a second, peak {peak:.2f} GiB"
    if on_gpu:
        waits = _waits(step)
        kernels, busy = _kernels(step)
        text += f", {sum(waits.values())} waits, {kernels} kernels in {1000 * busy:.1f} ms"
        text += "".join(f"\n    {count} waits {place}" for place, count in waits.items())
    check.note(name, text)


def _seconds(action: Callable[..., object], *arguments: Any) -> float:
    begun = clock()
    action(*arguments)
    return clock() - begun


def _waits(action: Callable[[], object]) -> Counter[str]:
    """Waits for the GPU by line of this project, as torch reports them."""
    found: Counter[str] = Counter()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            own = [f for f in traceback.extract_stack() if f.filename.startswith(_ROOT) and "/bench/" not in f.filename]
            found[f"{own[-1].filename.removeprefix(_ROOT)}:{own[-1].lineno}" if own else "elsewhere"] += 1

    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = before
    return found


def _kernels(action: Callable[[], object]) -> tuple[int, float]:
    """Number of kernels, and their seconds together."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        action()
        torch.cuda.synchronize()
    kernels = [event for event in profiled.events() if "CUDA" in str(event.device_type)]
    return len(kernels), sum(event.time_range.elapsed_us() for event in kernels) / 1e6


def resume(check: Check) -> None:
    """Six steps, again six steps, and six steps with a checkpoint after three."""
    for experiment, deterministic in itertools.product(("starter", "starter_seanet"), (False, True)):
        ends = []
        for interrupted in (False, False, True):
            settings = ["trainer.init=random", "adversarial.start_fraction=0", "trainer.freeze_encoder_until=0",
                        "trainer.precision=float32", f"trainer.deterministic={deterministic}".lower()]  # fmt: skip
            with check.trainer(experiment, *settings) as trainer:
                for number in range(6):
                    if interrupted and number == 3:
                        state = copy.deepcopy(trainer.state_dict())
                        take_step(trainer)  # changes everything that the state must restore
                        trainer.load_state_dict(state)
                    take_step(trainer)
                ends.append(torch.cat([p.detach().cpu().flatten() for p in trainer.codec.parameters()]))
        first, again, resumed = ends
        text = f"again equal: {torch.equal(first, again)}, resumed equal: {torch.equal(first, resumed)}"
        check.note(f"resume/{experiment}/{'deterministic' if deterministic else 'default'}", text)


def coding(check: Check) -> None:
    """Encoding, decoding and streaming of the 24 kHz model."""
    seconds = 1 if check.tiny else 10
    with check.trainer("encodec_24khz", "trainer.init=random") as trainer:
        codec = copy.deepcopy(trainer.averaged_codec).eval()
    for batch in (1,) if check.tiny else (1, 16, 64):
        audio = 0.1 * torch.randn(batch, 1, seconds * 24_000).to(check.device)
        codes = codec.encode(audio, 24_000, 6.0)
        codec.decode(codes)  # both directions are warm now
        encoded, decoded = _seconds(codec.encode, audio, 24_000, 6.0), _seconds(codec.decode, codes)
        rates = (f"{batch * seconds / each:.0f}" for each in (encoded, decoded))
        check.note(f"coding/{batch} signals of {seconds} s", "encode {}, decode {} times real time".format(*rates))
    for device in dict.fromkeys([check.device, torch.device("cpu")]):
        codec = codec.to(device)
        encoder, decoder = StreamingEncoder(codec, 6.0), StreamingDecoder(codec)
        frames = (0.1 * torch.randn(1, 1, 60 * 320)).to(device).split(320, -1)
        late = [1000 * _seconds(_push, encoder, decoder, frame) for frame in frames][10:]
        text = f"median {statistics.median(late):.2f} ms, largest {max(late):.2f} ms for a frame of 13.3 ms"
        check.note(f"coding/stream on {device.type}", text)


def _push(encoder: StreamingEncoder, decoder: StreamingDecoder, frame: Tensor) -> None:
    decoder.push(encoder.push(frame))


def balancers(check: Check) -> None:
    """Every strategy beside weighted_sum, in alternating steps."""
    every = sorted(path.stem for path in (CONFIGS / "balancer").glob("*.yaml"))
    names = ["encodec", "cagrad", "graddrop"] if check.tiny else every
    size = f"data.batch_size={2 if check.tiny else 16}"
    with check.trainer("audiocraft_24khz", size) as trainer:
        weights = trainer.balancer.weights
        strategies = {n: make_balancer(weights, n) for n in dict.fromkeys(["weighted_sum", *names])}
        ratios = time_steps(trainer, strategies, 1 if check.tiny else 3)
    text = ", ".join(f"{name} {statistics.median(ratio.step):.2f}" for name, ratio in ratios.items())
    check.note("balancers/relative to weighted_sum", text)


def nccl(check: Check) -> None:
    """With one GPU there is one process: this shows that the calls are accepted."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "cpu:gloo,cuda:nccl" if check.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            with check.trainer("starter", "trainer.init=random", "adversarial.start_fraction=0") as trainer:
                device_ids = [check.device] if check.device.type == "cuda" else None
                replica = torch.nn.parallel.DistributedDataParallel(trainer.codec, device_ids=device_ids)
                trainer.encoder.replica = replica
                take_step(trainer)
                objects: list[object] = [None]
                dist.all_gather_object(objects, {"step": trainer.step})
                dist.barrier()
        finally:
            dist.destroy_process_group()
    check.note("nccl", f"{backend}: a step in a process group of one was accepted")


def loader(check: Check) -> None:
    """Training reads 64 segments of 1 s; a GPU may take five steps a second."""
    with check.trainer("encodec_24khz", "data.batch_size=2") as trainer:
        dataset = trainer.data.dataset
    for workers in (1,) if check.tiny else (1, 2, 4, 8, 16):
        batches = TrainingData(dataset, 4 if check.tiny else 64, workers).batches(0)
        for _ in range(2 * workers + 1):
            next(batches)
        count = 2 if check.tiny else 16
        seconds = _seconds(_take, batches, count)
        samples = count * (4 if check.tiny else 64) * dataset.segment_samples
        check.note(f"loader/{workers} workers", f"{samples / dataset.sample_rate / seconds:.0f} s of audio a second")
        batches.close()  # type: ignore[attr-defined]


def _take(batches: Iterator[Any], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass


def learning(check: Check) -> None:
    """Losses at the start and at the end of the first steps of the starter."""
    count = 4 if check.tiny else 200
    for precision in ("float32", "bfloat16") if check.device.type == "cuda" else ("float32",):
        settings = ["data.batch_size=8", "adversarial.start_fraction=0.5", f"trainer.max_steps={count}"]
        with check.trainer("starter", "trainer.init=random", *settings, f"trainer.precision={precision}") as trainer:
            seen: list[dict[str, Tensor]] = []
            for batch in itertools.islice(trainer.data.batches(0), count):
                seen.append(trainer.train_step(batch.audio.to(check.device)))
                trainer.step += 1
        text = ", ".join(f"{name} {_fall(seen, name)}" for name in seen[-1] if name.startswith("loss/"))
        check.note(f"learning/{precision}", text)


def _fall(seen: Sequence[dict[str, Tensor]], name: str) -> str:
    values = [float(metrics[name]) for metrics in seen if name in metrics]
    tenth = max(1, len(values) // 10)
    return f"{statistics.fmean(values[:tenth]):.3g} to {statistics.fmean(values[-tenth:]):.3g}"
