"""What a run computes from its first batches: precision of the layers, initial weights, codebooks and baselines."""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor, nn

from codec.model import Codec
from codec.training.adversarial import AdversarialTraining
from codec.training.average import WeightAverage
from codec.training.batches import TrainingData
from codec.training.checkpoint.divergence import DivergenceError
from codec.training.config import TrainingConfig
from codec.training.distributed import Processes
from codec.training.logging.progress_bar import clock
from codec.training.logging.run_logger import RunLogger
from codec.training.startup.compilation import compile_networks, restore_networks, trial_step
from codec.training.startup.facts import count_parameters, device_name, run_facts
from codec.training.startup.malloc import return_freed_memory
from codec.training.startup.pca_init import pca_init_
from codec.training.startup.precision import Precision, check_bfloat16, checked_layers, keep_float32
from data import Batch
from losses import constant_baselines, discriminator_for

__all__ = ["Startup"]

_BASELINE_BATCHES = 8
_MAX_PCA_BATCHES = 128  # principal components need fewer frames than k-means
_MAX_KEPT_BATCHES = _MAX_PCA_BATCHES


class Startup:
    """Computations on the batches of `step` and later ones. The results are equal in all processes.

    The loader's workers read every batch once. The first batches are kept for later methods, until
    `initialize_codebooks`, the last of them, has used them, or `release` is called.
    """

    def __init__(
        self,
        codec: Codec,
        data: TrainingData,
        device: torch.device,
        precision: Precision,
        processes: Processes,
        logger: RunLogger,
    ) -> None:
        self.codec = codec
        self.data, self.device = data, device
        self.precision, self.processes, self.logger = precision, processes, logger
        self._kept: list[Tensor] = []  # batches on the CPU
        self._first = self._next = 0  # step of the first of them, and of the next batch of the loader
        self._loader: Iterator[Batch] | None = None

    def log_facts(self, config: TrainingConfig, adversarial: AdversarialTraining | None) -> None:
        """Logs what the run trains, for how long, and on which device."""
        networks: dict[str, nn.Module] = {"codec": self.codec}
        if adversarial is not None:
            networks["discriminator"] = adversarial.discriminator
        for line in run_facts(config, self.data, self.device, self.precision, networks):
            self.logger.message(line)
        self.logger.describe(device=device_name(self.device), parameters=count_parameters(self.codec))

    def check_precision(self, adversarial: AdversarialTraining | None, step: int, outputs_per_segment: int = 1) -> None:
        """With bfloat16, compares every layer with float32. Layers that fail in any process stay in float32."""
        if self.precision.dtype == torch.float32:
            return
        # Rounding the waveform to the 8 bits of bfloat16 adds white noise 54 dB below it, which is louder than much of
        # the treble that the spectral losses measure.
        keep_float32(cast(nn.Module, self.codec.encoder.input_layer))
        keep_float32(cast(nn.Module, self.codec.decoder.output_layer))
        networks = nn.ModuleDict({"codec": self.codec})
        if adversarial is not None:
            networks["discriminator"] = adversarial.discriminator
        (audio,) = self._batches(step, 1)
        audio = audio.repeat_interleave(outputs_per_segment, 0)  # errors depend on shapes
        count = len(checked_layers(networks))
        with self.logger.phase("bfloat16 check", f"{count} layers, compared with float32", count) as advance:
            failed = check_bfloat16(
                self.precision, networks, lambda: [network(audio) for network in networks.values()], advance=advance
            )
        found = {layer.name: layer for layers in self.processes.all_gather_object(failed) for layer in layers}
        for name, layer in found.items():
            keep_float32(networks.get_submodule(name))
            self.logger.message(f"stays in float32, bfloat16 is wrong here: {layer}")
        self.logger.message(f"bfloat16 checked against float32, {len(found)} layers failed")
        return_freed_memory()

    @torch.no_grad()
    def initialize_weights(self, average: WeightAverage, step: int, max_batches: int) -> None:
        """Sets codec and average to a transform codec of the first batches; see `pca_init`.

        Silence has no principal components. It leaves the weights random, which is logged.
        """
        count = min(max_batches, _MAX_PCA_BATCHES)
        detail = f"principal components of {self._duration(count)} of audio"
        with self.logger.phase("initial weights", detail, count) as advance:
            batches = []
            for batch in self._batches(step, count):
                batches.append(self.processes.all_gather(batch))
                advance()
            audio = torch.cat(batches)
            if not bool(audio.any()):
                self.logger.message("the first batches are silent: the codec's initial weights stay random")
                return
            pca_init_(self.codec, audio)
        self.processes.broadcast(self.codec.parameters())
        average.module.load_state_dict(self.codec.state_dict())

    @torch.no_grad()
    def initialize_codebooks(self, step: int, num_batches: int, seed: int) -> None:
        """Initializes the codebooks with the latents of the next batches.

        Raises:
            DivergenceError: A latent is not finite.
        """
        latents = []
        detail = f"latents of {self._duration(num_batches)} of audio"
        with self.logger.phase("codebook initialization", detail, num_batches) as advance, self.precision.autocast():
            for batch in self._batches(step, num_batches):
                latent = self.codec.encode_latent(batch).float().transpose(1, 2)
                # In the order of a single process that reads whole batches.
                latents.append(self.processes.all_gather(latent).flatten(0, 1))
                advance()
        vectors = torch.cat(latents)
        if not bool(vectors.isfinite().all()):
            raise DivergenceError(f"the latents are not finite at step {step}: lower optimizer.codec.lr.")
        count = len(self.codec.quantizer.codebook_sizes)
        with self.logger.phase("k-means", f"{count} codebooks, {len(vectors)} latent vectors", count) as advance:
            self.codec.quantizer.initialize(vectors, seed, num_batches, advance)
        self.processes.broadcast(self.codec.quantizer.buffers())
        self.release()
        return_freed_memory()
        self.logger.message(f"codebooks initialized at step {step} from {len(vectors)} latent vectors")

    def compile_networks(
        self,
        adversarial: AdversarialTraining | None,
        config: TrainingConfig,
        step: int,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        """Compiles the networks, see `compilation`. If torch fails in any process, all of them train without.

        Args:
            backend: As in `torch.compile`.
        """
        networks = {"encoder": self.codec.encoder, "decoder": self.codec.decoder}
        if adversarial is not None:
            each = dict.fromkeys(
                discriminator_for(adversarial.discriminator, rate) for rate in self.codec.config.bandwidths_kbps
            )
            names = (f"discriminator{f' {number}' if len(each) > 1 else ''}" for number in range(len(each)))
            networks |= dict(zip(names, each, strict=True))
        (audio,) = self._batches(step, 1)
        part = audio.repeat_interleave(config.outputs_per_segment, 0).chunk(config.accumulate)[0]
        error = ""
        with self.logger.phase("compilation", ", ".join(networks), 1):
            begun = time.monotonic()
            try:
                compiled = compile_networks(networks, config.compile or "default", backend)
                trial_step(self.codec, networks, self.precision, part)
            # There is no compiler, or an operation that it cannot compile.
            except (RuntimeError, ImportError, OSError) as caught:
                error = " ".join(str(caught).split("\n")[:2]).strip() or type(caught).__name__
            seconds = time.monotonic() - begun
        errors = [each for each in self.processes.all_gather_object(error) if each]
        if errors:
            restore_networks(networks)
            self.logger.message(f"not compiled, training goes on without: {errors[0]}")
        else:
            self.logger.message(f"compiled in {seconds:.0f} s: {', '.join(compiled)}")

    def constant_baselines(self, losses: Mapping[str, nn.Module], step: int) -> dict[str, float]:
        """Losses of the best constant prediction (see `losses.constant_baselines`), averaged over the processes."""
        found = constant_baselines(losses, self._batches(step, _BASELINE_BATCHES))
        values = self.processes.all_gather_object(found)
        return {name: fmean(each[name] for each in values) for name in found}

    def release(self) -> None:
        """Frees the audio that was kept, and ends the loader."""
        self._kept, self._loader = [], None

    def _batches(self, step: int, count: int) -> Iterator[Tensor]:
        """This process's parts of `count` batches, those of `step` and later steps."""
        if step != self._first:
            self.release()
            self._first = step
        yield from (audio.to(self.device) for audio in self._kept[:count])
        missing = range(step + len(self._kept), step + count)
        if not missing:
            return
        if self._loader is None or self._next != missing.start:
            self._loader, self._next = self.data.batches(missing.start), missing.start
        for batch in islice(self._loader, len(missing)):
            self._next += 1
            if len(self._kept) < _MAX_KEPT_BATCHES:
                self._kept.append(batch.audio)
            yield batch.audio.to(self.device)

    def _duration(self, batches: int) -> str:
        return clock(batches * self.data.seconds_per_step) + " min"
