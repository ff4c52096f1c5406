"""The training loop: a step on one screen, and around it what makes a run resumable, observable and safe."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from balancer import Balancer
from codec.model import Codec, CodecOutput
from codec.training.adversarial import AdversarialTraining
from codec.training.batches import TrainingData
from codec.training.checkpoint.checkpointer import Checkpointer
from codec.training.checkpoint.divergence import DivergenceError, DivergenceMonitor, TrainingError
from codec.training.checkpoint.store import CheckpointStore
from codec.training.checks import check_loss_names, check_windows
from codec.training.config import TrainingConfig
from codec.training.distributed import Processes
from codec.training.logging.balance_metrics import balance_metrics, loss_properties, rms_metrics
from codec.training.logging.meters import Meters, codebook_metrics
from codec.training.logging.run_logger import RunLogger
from codec.training.schedule import LRScheduler, make_codec_optimizer
from codec.training.shared_gradients import SharedGradients
from codec.training.startup.initialize import shared_constant_baselines, start_codebooks, start_weights, trust_bfloat16
from codec.training.startup.malloc import return_freed_memory
from codec.training.startup.precision import choose_precision
from codec.training.validation import Validation
from data import Batch

__all__ = ["Trainer", "TrainingError"]

_COUNTERS = ("step", "seconds", "skipped", "skipped_in_a_row")
_PRIOR_BATCHES = 8
_TRANSFORM_BATCHES = 128  # at most: principal components need far fewer frames than codebooks do


class Trainer:
    """Trains a codec.

    Args:
        losses: Name -> loss of (estimate, reference).
        adversarial: None trains without a discriminator.
        optimizer: Makes the codec's optimizer from its parameters.
        data: Training batches.
        validation: Scores the averaged codec on held-out clips.
        store: Where checkpoints go; a run that finds one there goes on from it.
        processes: Those that train together, each with its part of `data`; this one alone if None.

    Raises:
        ValueError: Loss names and balancer weights differ, or a segment is shorter than a window that has to fit.
    """

    def __init__(
        self,
        codec: Codec,
        losses: Mapping[str, nn.Module],
        adversarial: AdversarialTraining | None,
        balancer: Balancer,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        config: TrainingConfig,
        data: TrainingData,
        validation: Validation,
        store: CheckpointStore,
        logger: RunLogger,
        processes: Processes | None = None,
    ) -> None:
        check_loss_names(losses, adversarial, balancer)
        check_windows(losses, adversarial, data.dataset.segment_samples)
        self.config = config = config.in_steps(data.steps_per_epoch)
        self.device = torch.device(config.device)
        self.processes = processes or Processes()
        self.codec = codec.to(self.device)
        self.optimizer = make_codec_optimizer(optimizer, codec.encoder, codec.decoder, config.encoder_lr_factor)
        self.encoder_frozen = False  # whether the encoder has learnt, see TrainingConfig.freeze_encoder_at
        self.codec.encoder.requires_grad_(self.encoder_learns)
        self.replica = self.processes.data_parallel(self.codec, self.device)
        self.losses = {name: loss.to(self.device) for name, loss in losses.items()}
        self.adversarial = None if adversarial is None else adversarial.to(self.device)
        self.balancer = balancer.to(self.device)
        self.optimizers = [self.optimizer, *([adversarial.optimizer] if adversarial is not None else [])]
        self.schedule = LRScheduler(config.lr_schedule, self.optimizers)
        self.average = AveragedModel(codec, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        self.averaged_codec.quantizer = codec.quantizer  # the newest codebooks, not averages of them
        self.shared_gradients = SharedGradients(codec)  # after the copy that is averaged
        self.data, self.validation = data, validation
        self.store = store
        self.logger = logger
        self.divergence_monitor = DivergenceMonitor(config.rollback, logger.message)
        self.checkpointer = Checkpointer(store, logger, self.processes)
        self.precision = choose_precision(config.precision, self.device)
        self.meters = Meters()
        self.step, self.seconds, self.skipped, self.skipped_in_a_row = 0, 0.0, 0, 0

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return self.config.progress(self.step, self.seconds)

    @property
    def encoder_learns(self) -> bool:
        """If not, its parameters want no gradient, and no backward pass goes through it."""
        return self.config.encoder_lr_factor > 0 and not self.encoder_frozen

    @property
    def averaged_codec(self) -> Codec:
        """The codec with averaged weights and the newest codebooks: what is validated and exported."""
        return cast(Codec, self.average.module)

    # ------------------------------------------------------------------------------------------------ the run

    def run(self) -> dict[str, float]:
        """Trains until the budget is spent, from the newest checkpoint if there is one; returns the last scores.

        Raises:
            TrainingError: It diverged, or too many steps in a row were not finite, and going back did not help.
        """
        restored = self.resume()
        if not restored and self.config.init == "pca":
            batches = self._look_ahead(min(self.config.codebooks.init_batches, _TRANSFORM_BATCHES))
            start_weights(self.codec, self.average, batches, self.processes, self.logger.message)
        self.prepare_precision()
        if not restored:
            if self.balancer.uses_constant_baselines:
                ahead = self._look_ahead(_PRIOR_BATCHES)
                self.balancer.set_constant_baselines(shared_constant_baselines(self.losses, ahead, self.processes))
            self._start_codebooks()
            self.logger.message("scoring the held-out clips before the first step")
            self.validate()
            if self.config.rollback.max_rollbacks:
                self.save(None)  # what a run goes back to that diverges in its first minutes
        scores: dict[str, float] = {}
        while self.progress < 1:
            try:
                scores = self._train()
            except DivergenceError as error:
                self._roll_back(error)
        return scores or self.validation.run(self.averaged_codec, self.losses, self.step, self.processes).scores

    def _train(self) -> dict[str, float]:
        """Until the budget is spent, or DivergenceError is raised; returns the last scores."""
        scores: dict[str, float] = {}
        clock = time.monotonic() - self.seconds
        batches = self.data.batches(self.step)
        while self.progress < 1:
            begun = time.monotonic()
            self._settle_encoder()
            self._start_codebooks()
            with self.meters.waiting():
                batch = self._receive(next(batches))
            self.meters.add(self.train_step(batch), begun)
            self.step += 1
            self.seconds = self._agreed(time.monotonic() - clock)
            self.logger.progress(self.step, self.seconds)
            done = self.progress >= 1
            saving = done or self.step % self.config.checkpoint_every == 0
            if saving or self.step % self.config.log_every == 0:
                self._log()
            scores = self.validate() if done or self.step % self.config.validate_every == 0 else {}
            if saving:
                self.save(scores.get("all/mel_distance"))
        return scores

    def train_step(self, audio: Tensor) -> dict[str, Tensor]:
        """One step, in order of time.

        Shape: audio [B, C, T] -> metrics, on the device.
        """
        self.schedule.set(self.progress, self.divergence_monitor.lr_factor)
        generator = self.config.step_generator(self.step)
        books = self.config.codebooks.draw(self.codec.config, generator)
        update_draw = torch.rand((), generator=generator).item()

        with self.precision.autocast():
            output: CodecOutput = self.replica(audio, books, quantize=self.codec.quantizer.initialized)
        # The losses see a leaf: their graphs end there, and the codec is traversed once, by the one backward below.
        y = output.audio.detach().float().requires_grad_()
        losses = {name: loss(y, audio) for name, loss in self.losses.items()}
        adversarial = (
            self.adversarial if self.adversarial and self.progress >= self.adversarial.start_fraction else None
        )
        if adversarial is not None:
            with self.precision.autocast():
                losses |= adversarial.generator_losses(y, audio, update_draw < adversarial.update_probability)

        balanced = self.balancer(losses, y, self.shared_gradients.at(output))
        quantized = output.quantized
        commitment = (
            y.new_zeros(()) if quantized is None else self.config.codebooks.commitment_loss(quantized.commitment)
        )
        flags = torch.stack([balanced.is_finite, commitment.isfinite()])
        sound, finite = self.processes.all_reduce_and(flags).tolist()  # one look at the device
        if balanced.dropped or not (sound and finite):
            return self._skip(balanced.dropped or ("commitment" if sound else "the balancer's weights",))

        # The commitment loss is no function of the output, so it is not balanced; it shares the backward pass.
        roots, gradients = [output.audio], [balanced.gradient.to(output.audio.dtype)]
        if commitment.requires_grad:
            roots, gradients = [*roots, commitment], [*gradients, torch.ones_like(commitment)]
        watched = balance_metrics(balanced.report, output, commitment)
        torch.autograd.backward(roots, gradients)
        norm = nn.utils.clip_grad_norm_(self.codec.parameters(), self.config.gradient_clip_norm or float("inf"))
        if not bool(norm.isfinite()):
            return self._skip(("the codec's gradient",))

        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if quantized is not None:
            self.codec.quantizer.update(quantized)
        if adversarial is not None:
            adversarial.step()
        self.average.update_parameters(self.codec)
        self.skipped_in_a_row = 0
        return (
            {f"loss/{name}": loss.detach() for name, loss in losses.items()}
            | {f"weight/{name}": weight for name, weight in balanced.weights.items()}
            | {"commitment": commitment.detach(), "gradient_norm": norm, "num_codebooks": torch.tensor(float(books))}
            | (adversarial.metrics if adversarial is not None else {})
            | rms_metrics(y, audio)
            | watched
        )

    def validate(self) -> dict[str, float]:
        """Scores the averaged codec on the held-out clips, and logs scores and samples."""
        result = self.validation.run(self.averaged_codec, self.losses, self.step, self.processes)
        self.balancer.update_from_validation(result.losses)
        self.logger.metrics("validation", self.step, self.seconds, result.scores)
        for name, audio in result.samples.items():
            self.logger.audio(name, self.step, audio, self.codec.config.sample_rate)
        self.divergence_monitor.update("validation", self.step, result.scores)
        return result.scores

    # ------------------------------------------------------------------------------------------ around a step

    def prepare_precision(self) -> None:
        """Compares every layer with float32 on a real batch before bfloat16 is trusted."""
        self.logger.message(f"precision: {self.precision.description}")
        if self.precision.dtype != torch.float32:
            audio = self.data.batch(self.step).to(self.device)
            trust_bfloat16(self.precision, self.codec, self.adversarial, audio, self.processes, self.logger.message)
            return_freed_memory()

    def _receive(self, batch: Batch) -> Tensor:
        for path in batch.skipped_files:
            self.logger.skip_file(path, "did not decode")
        return batch.audio.to(self.device, non_blocking=True)

    def _agreed(self, seconds: float) -> float:
        """The first process's clock where it decides how long the run is."""
        return seconds if self.config.max_minutes is None else self.processes.broadcast_object(seconds)

    def _look_ahead(self, count: int) -> Iterator[Tensor]:
        return (self.data.batch(self.step + i).to(self.device) for i in range(count))

    def _settle_encoder(self) -> None:
        """Once, when it has learnt: the average of its weights stays, and the codebooks start anew from its latents."""
        if not self.encoder_learns or self.progress < self.config.freeze_encoder_at:
            return
        self.codec.encoder.load_state_dict(self.averaged_codec.encoder.state_dict())
        self.codec.quantizer.reset()
        self.encoder_frozen = True
        self._hold_encoder()
        self.logger.message(f"the encoder stays as it is from step {self.step} on")

    def _hold_encoder(self) -> None:
        """Gradients for the encoder or not; the replica counts on those that were there at first."""
        if any(parameter.requires_grad != self.encoder_learns for parameter in self.codec.encoder.parameters()):
            self.codec.encoder.requires_grad_(self.encoder_learns)
            self.replica = self.processes.data_parallel(self.codec, self.device)

    def _start_codebooks(self) -> None:
        settings = self.config.codebooks
        if self.codec.quantizer.initialized or self.progress < settings.start_fraction:
            return
        count = settings.init_batches
        found = start_codebooks(
            self.codec, self._look_ahead(count), count, self.precision, self.processes, self.config.seed
        )
        if not found:
            raise DivergenceError(f"the latents are not finite at step {self.step}: lower optimizer.codec.lr.")
        return_freed_memory()
        self.logger.message(f"codebooks started at step {self.step} from {found} latent vectors")

    def _skip(self, culprits: tuple[str, ...]) -> dict[str, Tensor]:
        """Leaves codec, codebooks and averages as they are (an alternating discriminator has moved), and counts."""
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.logger.message(f"step {self.step} skipped: not finite: {', '.join(culprits)}")
        if self.skipped_in_a_row >= self.config.max_skipped_steps:
            raise DivergenceError(
                f"{self.skipped_in_a_row} steps in a row up to step {self.step} were not finite, the last in "
                f"{', '.join(culprits)}: lower optimizer.codec.lr or set trainer.gradient_clip_norm; checkpoints are "
                f"in {self.store.folder}."
            )
        return {}

    def _log(self) -> None:
        values = self.meters.read(self.data.seconds_per_step, self.processes)
        if self.codec.quantizer.initialized:
            values |= codebook_metrics(self.codec.quantizer.usage())
            values["codebook_size"] = self.codec.config.codebook_size
        values |= {"lr": self.optimizer.param_groups[-1]["lr"], "skipped_steps": self.skipped}
        values["rollbacks"] = self.divergence_monitor.rollbacks
        values |= loss_properties(self.losses, self.adversarial)
        self.logger.metrics("train", self.step, self.seconds, values)
        self.divergence_monitor.update("train", self.step, self.processes.broadcast_object(values), self.seconds)

    # ------------------------------------------------------------------------------------------------ state

    def save(self, score: float | None) -> None:
        """Writes the model and a checkpoint, with this step's score if there is one."""
        self.divergence_monitor.register_checkpoint(self.step)
        protected = self.divergence_monitor.protected_steps
        self.checkpointer.save(self.step, self.state_dict(), self.averaged_codec, score, protected)

    def resume(self) -> bool:
        """Loads the newest intact checkpoint; returns False if there is none."""
        checkpoint = self.checkpointer.resume()
        if checkpoint is None:
            return False
        self.load_state_dict(checkpoint.state)
        return True

    def _roll_back(self, error: DivergenceError) -> None:
        """Returns to the newest good checkpoint, which is saved again with lower learning rates.

        A kill during a rollback is harmless. The run resumes from the good checkpoint, or diverges again and repeats
        the rollback.

        Raises:
            DivergenceError: No further rollback is possible.
        """
        rollback = self.divergence_monitor.choose_rollback(error, self.step, self.checkpointer.steps())
        seconds = self.seconds
        self.load_state_dict(self.checkpointer.rewind(rollback.step).state)
        self.seconds = seconds  # training time of the removed steps counts
        self.divergence_monitor.rolled_back(rollback)
        if self.processes.is_main:
            self.validation.forget_after(rollback.step)
        self.save(None)
        self.meters = Meters()

    def state_dict(self) -> dict[str, Any]:
        """Everything the continuation of the run depends on; tensors and primitives only."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        counters = {name: getattr(self, name) for name in _COUNTERS}
        phase = {"encoder_frozen": self.encoder_frozen, "random": torch.get_rng_state()}
        return {"codec_config": self.codec.config.to_dict(), **parts, **counters, **phase}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.encoder_frozen = state["encoder_frozen"]
        self._hold_encoder()
        torch.set_rng_state(state["random"])

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"codec": self.codec, "average": self.average, "optimizer": self.optimizer}
        parts |= {"balancer": self.balancer, "divergence_monitor": self.divergence_monitor}
        if self.adversarial is not None:
            parts |= {"adversarial": self.adversarial, "adversarial_optimizer": self.adversarial.optimizer}
        return parts
