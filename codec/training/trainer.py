"""The training loop: `Trainer.train_step` is one step, `Trainer.run` a whole run that resumes and recovers."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from balancer import Balanced, Balancer
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
from codec.training.startup.initialize import Startup
from codec.training.startup.precision import choose_precision
from codec.training.validation import Validation
from data import Batch

__all__ = ["Trainer", "TrainingError"]

_COUNTERS = ("step", "seconds", "skipped", "skipped_in_a_row")


class Trainer:
    """Trains a codec.

    Args:
        losses: Name -> loss of (estimate, reference).
        adversarial: None trains without a discriminator.
        optimizer: Makes the codec's optimizer from its parameters.
        data: Training batches; with several processes, the part of this one.
        validation: Scores the averaged codec on held-out clips.
        store: Checkpoints. If it has any, `run` resumes from the newest.
        processes: The processes that train together; None for a single process.

    Raises:
        ValueError: Losses and balancer weights have different names, or a segment is shorter than a window.
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
        self.encoder_frozen = config.encoder_lr_factor == 0
        self.codec.encoder.requires_grad_(not self.encoder_frozen)
        self.replica = self.processes.data_parallel(self.codec, self.device)
        self.losses = {name: loss.to(self.device) for name, loss in losses.items()}
        self.adversarial = None if adversarial is None else adversarial.to(self.device)
        self.balancer = balancer.to(self.device)
        self.optimizers = [self.optimizer, *([adversarial.optimizer] if adversarial is not None else [])]
        self.lr_scheduler = LRScheduler(config.lr_schedule, self.optimizers)
        self.average = AveragedModel(codec, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        self.averaged_codec.quantizer = codec.quantizer  # codebooks are averages already
        self.shared_gradients = SharedGradients(codec)  # after the averaged copy is made
        self.data, self.validation, self.store, self.logger = data, validation, store, logger
        self.divergence_monitor = DivergenceMonitor(config.rollback, logger.message)
        self.checkpointer = Checkpointer(store, logger, self.processes)
        self.precision = choose_precision(config.precision, self.device)
        self.startup = Startup(codec, data, self.device, self.precision, self.processes, logger.message)
        self.meters = Meters()
        self.step, self.seconds, self.skipped, self.skipped_in_a_row = 0, 0.0, 0, 0

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return self.config.progress(self.step, self.seconds)

    @property
    def averaged_codec(self) -> Codec:
        """The codec with averaged weights and the current codebooks, which is validated and exported."""
        return cast(Codec, self.average.module)

    # ------------------------------------------------------------------------------------------ one step

    def train_step(self, audio: Tensor) -> dict[str, Tensor]:
        """One step, in order of time. A step with a non-finite loss or gradient changes nothing in the codec.

        Shape: audio [B, C, T] -> metrics, on the device; empty if the step was skipped.
        """
        self.lr_scheduler.set(self.progress, self.divergence_monitor.lr_factor)
        generator = self.config.step_generator(self.step)
        num_codebooks = self.config.codebooks.draw(self.codec.config, generator)
        update_draw = torch.rand((), generator=generator).item()

        with self.precision.autocast():
            output: CodecOutput = self.replica(audio, num_codebooks, quantize=self.codec.quantizer.initialized)
        # The losses are functions of a leaf. Their graphs end there, and only the last backward pass reaches the codec.
        estimate = output.audio.detach().float().requires_grad_()
        losses = {name: loss(estimate, audio) for name, loss in self.losses.items()}
        adversarial = self.adversarial
        if adversarial is not None and self.progress < adversarial.start_fraction:
            adversarial = None
        if adversarial is not None:
            with self.precision.autocast():
                update = update_draw < adversarial.update_probability
                losses |= adversarial.generator_losses(estimate, audio, update)

        balanced = self.balancer(losses, estimate, self.shared_gradients.at(output))
        commitment = estimate.new_zeros(())
        if output.quantized is not None:
            commitment = self.config.codebooks.commitment_loss(output.quantized.commitment)
        if not_finite := self._find_not_finite(balanced, commitment):
            return self._skip(not_finite)

        metrics = balance_metrics(balanced.report, output, commitment)
        # The commitment loss is no function of the output, so it is not balanced.
        roots = [output.audio, commitment] if commitment.requires_grad else [output.audio]
        gradients = [balanced.gradient.to(output.audio.dtype), torch.ones_like(commitment)]
        torch.autograd.backward(roots, gradients[: len(roots)])
        norm = nn.utils.clip_grad_norm_(self.codec.parameters(), self.config.gradient_clip_norm or float("inf"))
        if not bool(norm.isfinite()):
            return self._skip(("the codec's gradient",))

        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if output.quantized is not None:
            self.codec.quantizer.update(output.quantized)
        if adversarial is not None:
            adversarial.step()
            metrics |= adversarial.metrics
        self.average.update_parameters(self.codec)
        self.skipped_in_a_row = 0
        metrics |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        metrics |= {f"weight/{name}": weight for name, weight in balanced.weights.items()}
        metrics |= {"commitment": commitment.detach(), "gradient_norm": norm}
        return metrics | {"num_codebooks": torch.tensor(float(num_codebooks))} | rms_metrics(estimate, audio)

    def _find_not_finite(self, balanced: Balanced, commitment: Tensor) -> tuple[str, ...]:
        """Names of what is not finite in any process; reads the device once."""
        flags = self.processes.all_reduce_and(torch.stack([balanced.is_finite, commitment.isfinite()]))
        weights_finite, commitment_finite = flags.tolist()
        if balanced.dropped or not weights_finite:
            return balanced.dropped or ("the balancer's weights",)
        return () if commitment_finite else ("commitment",)

    def _skip(self, not_finite: tuple[str, ...]) -> dict[str, Tensor]:
        """Counts a step without an update of the codec. A discriminator with alternating updates was updated before.

        Raises:
            DivergenceError: `max_skipped_steps` steps in a row were skipped.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.logger.message(f"step {self.step} skipped: not finite: {', '.join(not_finite)}")
        if self.skipped_in_a_row >= self.config.max_skipped_steps:
            raise DivergenceError(
                f"{self.skipped_in_a_row} steps in a row up to step {self.step} were not finite, the last in "
                f"{', '.join(not_finite)}: lower optimizer.codec.lr or set trainer.gradient_clip_norm; checkpoints are "
                f"in {self.store.folder}."
            )
        return {}

    # ------------------------------------------------------------------------------------------ a run

    def run(self) -> dict[str, float]:
        """Trains to the end of the run, from the newest checkpoint if there is one; returns the last scores.

        Raises:
            TrainingError: Training diverged, and rollbacks did not help.
        """
        resumed = self.resume()
        if not resumed and self.config.init == "pca":
            self.startup.initialize_weights(self.average, self.step, self.config.codebooks.init_batches)
        self.startup.check_precision(self.adversarial, self.step)
        if not resumed:
            if self.balancer.uses_constant_baselines:
                self.balancer.set_constant_baselines(self.startup.constant_baselines(self.losses, self.step))
            self._initialize_codebooks()
            self.logger.message("validation before the first step")
            self.validate()
            if self.config.rollback.max_rollbacks:
                self.save(None)  # for a divergence before the next checkpoint
        scores: dict[str, float] = {}
        while self.progress < 1:
            try:
                scores = self._train()
            except DivergenceError as error:
                self._roll_back(error)
        return scores or self.validation.run(self.averaged_codec, self.losses, self.step, self.processes).scores

    def _train(self) -> dict[str, float]:
        """Trains to the end of the run, or until a `DivergenceError`; returns the last scores."""
        scores: dict[str, float] = {}
        clock = time.monotonic() - self.seconds
        batches = self.data.batches(self.step)
        while self.progress < 1:
            begun = time.monotonic()
            self._freeze_encoder()
            self._initialize_codebooks()
            with self.meters.waiting():
                audio = self._receive(next(batches))
            self.meters.add(self.train_step(audio), begun)
            self.step += 1
            self.seconds = time.monotonic() - clock
            if self.config.max_minutes is not None:  # all processes must agree on the end of the run
                self.seconds = self.processes.broadcast_object(self.seconds)
            self.logger.progress(self.step, self.seconds)
            done = self.progress >= 1
            saves = done or self.step % self.config.checkpoint_every == 0
            if saves or self.step % self.config.log_every == 0:
                self._log()
            scores = self.validate() if done or self.step % self.config.validate_every == 0 else {}
            if saves:
                self.save(scores.get("all/mel_distance"))
        return scores

    def validate(self) -> dict[str, float]:
        """Scores the averaged codec on the held-out clips, and logs scores and samples."""
        result = self.validation.run(self.averaged_codec, self.losses, self.step, self.processes)
        self.balancer.update_from_validation(result.losses)
        self.logger.metrics("validation", self.step, self.seconds, result.scores)
        for name, audio in result.samples.items():
            self.logger.audio(name, self.step, audio, self.codec.config.sample_rate)
        self.divergence_monitor.update("validation", self.step, result.scores)
        return result.scores

    def _receive(self, batch: Batch) -> Tensor:
        for path in batch.skipped_files:
            self.logger.skip_file(path, "did not decode")
        return batch.audio.to(self.device, non_blocking=True)

    def _freeze_encoder(self) -> None:
        """Once: freezes the encoder with its averaged weights and lets k-means initialize the codebooks again."""
        if self.encoder_frozen or self.progress < self.config.freeze_encoder_at:
            return
        self.codec.encoder.load_state_dict(self.averaged_codec.encoder.state_dict())
        self.codec.quantizer.reset()
        self._set_encoder_frozen(True)
        self.logger.message(f"encoder frozen at step {self.step}")

    def _set_encoder_frozen(self, frozen: bool) -> None:
        if frozen != self.encoder_frozen:
            self.encoder_frozen = frozen
            self.codec.encoder.requires_grad_(not frozen)
            self.replica = self.processes.data_parallel(self.codec, self.device)  # it registers trainable parameters

    def _initialize_codebooks(self) -> None:
        settings = self.config.codebooks
        if self.codec.quantizer.initialized or self.progress < settings.start_fraction:
            return
        count = self.startup.initialize_codebooks(self.step, settings.init_batches, self.config.seed)
        if not count:
            raise DivergenceError(f"the latents are not finite at step {self.step}: lower optimizer.codec.lr.")
        self.logger.message(f"codebooks initialized at step {self.step} from {count} latent vectors")

    def _log(self) -> None:
        values = self.meters.read(self.data.seconds_per_step, self.processes)
        if self.codec.quantizer.initialized:
            values |= codebook_metrics(self.codec.quantizer.usage())
            values["codebook_size"] = max(self.codec.config.codebook_sizes)
        values |= {"lr": self.optimizer.param_groups[-1]["lr"], "skipped_steps": self.skipped}
        values["rollbacks"] = self.divergence_monitor.rollbacks
        values |= loss_properties(self.losses, self.adversarial)
        self.logger.metrics("train", self.step, self.seconds, values)
        self.divergence_monitor.update("train", self.step, self.processes.broadcast_object(values), self.seconds)

    # ------------------------------------------------------------------------------------------ state

    def save(self, score: float | None) -> None:
        """Writes the model and a checkpoint, with this step's score if there is one."""
        self.divergence_monitor.register_checkpoint(self.step)
        protected = self.divergence_monitor.protected_steps
        self.checkpointer.save(self.step, self.state_dict(), self.averaged_codec, score, protected)

    def resume(self) -> bool:
        """Loads the newest intact checkpoint; returns False if there is none."""
        checkpoint = self.checkpointer.resume()
        if checkpoint is not None:
            self.load_state_dict(checkpoint.state)
        return checkpoint is not None

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
        """All state that later steps depend on; tensors and primitives only."""
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
        self._set_encoder_frozen(state["encoder_frozen"])
        torch.set_rng_state(state["random"])

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"codec": self.codec, "average": self.average, "optimizer": self.optimizer}
        parts |= {"balancer": self.balancer, "divergence_monitor": self.divergence_monitor}
        if self.adversarial is not None:
            parts |= {"adversarial": self.adversarial, "adversarial_optimizer": self.adversarial.optimizer}
        return parts
