"""The training loop: `Trainer.train_step` is one step, `Trainer.run` a whole run that resumes and recovers."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from balancer import Balancer
from codec.model import Codec, CodecOutput
from codec.quantization.ieee import without_tf32
from codec.training.accumulation import backward, backward_in_parts, forward_in_parts, losses_in_parts
from codec.training.adversarial import AdversarialTraining
from codec.training.average import WeightAverage
from codec.training.batches import TrainingData
from codec.training.checkpoint.checkpointer import Checkpointer
from codec.training.checkpoint.divergence import DivergenceError, DivergenceMonitor, TrainingError
from codec.training.checkpoint.store import CheckpointStore
from codec.training.checks import check_loss_names, check_parts, check_windows
from codec.training.config import TrainingConfig
from codec.training.distributed import Processes
from codec.training.encoder_freeze import EncoderFreeze
from codec.training.interruptions import Interruptions
from codec.training.logging.meters import Meters
from codec.training.logging.metrics import balance_metrics, codebook_metrics, loss_properties, step_metrics
from codec.training.logging.run_logger import RunLogger
from codec.training.schedule import LRScheduler, make_codec_optimizer
from codec.training.seeded import seeded
from codec.training.shared_gradients import SharedGradients
from codec.training.skipped_steps import SkippedSteps
from codec.training.startup.device import use_device
from codec.training.startup.initialize import Startup
from codec.training.startup.precision import choose_precision
from codec.training.validation import Validation
from data import Batch

__all__ = ["Trainer", "TrainingError"]


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
        resume_command: The command that resumes the run, for messages; None for that of this process.

    Attributes:
        was_finished: Whether the run had reached its end before `run` was called.

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
        resume_command: str | None = None,
    ) -> None:
        check_loss_names(losses, adversarial, balancer)
        check_windows(losses, adversarial, data.dataset.segment_samples)
        check_parts(config.accumulate, data.batch_size, data.world_size)
        self.config = config = config.in_steps(data.steps_per_epoch)
        self.device = torch.device(config.device)
        self.processes = processes or Processes()
        self.codec = codec.to(self.device)
        self.optimizer = make_codec_optimizer(optimizer, codec, config.encoder_lr_factor)
        for parameter in codec.quantizer.parameters():
            parameter.requires_grad_(not config.freezes_quantizer)
        self.encoder = EncoderFreeze(codec, self.processes, self.device, config.freezes_encoder(0.0))
        self.is_stochastic = any(getattr(part, "is_stochastic", False) for part in (codec.encoder, codec.decoder))
        self.losses = {name: loss.to(self.device) for name, loss in losses.items()}
        self.adversarial = None if adversarial is None else adversarial.to(self.device)
        self.balancer = balancer  # its state stays on the host
        self.optimizers = [self.optimizer, *([adversarial.optimizer] if adversarial is not None else [])]
        self.lr_scheduler = LRScheduler(config.lr_schedule, self.optimizers)
        self.average = WeightAverage(codec, config.ema_decay)
        # After the averaged copy is made. A batch in parts has no graph from the parameters to its whole output.
        self.shared_gradients = SharedGradients(codec) if config.accumulate == 1 else None
        self.data, self.validation, self.store, self.logger = data, validation, store, logger
        self.divergence_monitor = DivergenceMonitor(config.rollback, logger.message)
        self.checkpointer = Checkpointer(store, self.divergence_monitor, logger, self.processes, resume_command)
        self.precision = choose_precision(config.precision, self.device)
        use_device(self.device, self.precision.tf32, config.deterministic)
        self.data.pin_memory = self.device.type == "cuda" and torch.cuda.is_available()
        self.startup = Startup(codec, data, self.device, self.precision, self.processes, logger)
        self.interruptions = Interruptions(
            config.checkpoint_minutes, self.processes, lambda: self.checkpointer.describe(self.step)
        )
        self.meters = Meters(self.processes)
        self.skipped = SkippedSteps(config.max_skipped_steps, self.processes, self.interruptions, logger.message)
        self.step, self.seconds = 0, 0.0
        self.was_finished = False

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return self.config.progress(self.step, self.seconds)

    @property
    def averaged_codec(self) -> Codec:
        """The codec with averaged weights and the current codebooks, which is validated and exported."""
        return self.average.module

    # ------------------------------------------------------------------------------------------ one step

    def train_step(self, audio: Tensor) -> dict[str, Tensor]:
        """One step, in order of time. A step with a non-finite loss or gradient changes nothing in the codec.

        Shape: audio [B, C, T] -> metrics, on the device; empty if the step was skipped.
        """
        if self.config.compile == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # the memory of the last step's results may be used again
        self.lr_scheduler.set(self.progress, self.divergence_monitor.lr_factor)
        generator = self.config.step_generator(self.step)
        num_codebooks = self.config.codebooks.draw(self.codec.config, generator)
        update_draw = torch.rand((), generator=generator).item()
        noise_seed = int(torch.randint(1 << 62, (), generator=generator))

        parts, is_quantized = self.config.accumulate, self.codec.quantizer.initialized

        def forward(audio: Tensor) -> CodecOutput:
            # A decoder with noise draws the same in both passes of a batch in parts, and after a resumption.
            noise = seeded(noise_seed) if self.is_stochastic else nullcontext()
            with self.precision.autocast(), noise:
                output: CodecOutput = self.encoder.replica(audio, num_codebooks, quantize=is_quantized)
            return output

        output = forward(audio) if parts == 1 else forward_in_parts(forward, audio, parts)
        # The losses are functions of a leaf. Their graphs end there, and only the last backward pass reaches the codec.
        estimate = output.audio.detach().float().requires_grad_()
        losses = losses_in_parts(self._losses, estimate, audio, parts)
        adversarial = self.adversarial
        if adversarial is not None and self.progress < adversarial.start_fraction:
            adversarial = None
        if adversarial is not None:
            with self.precision.autocast():
                update = update_draw < adversarial.update_probability
                bandwidth_kbps = self.codec.config.kbps_of(num_codebooks)
                losses |= adversarial.generator_losses(estimate, audio, update, parts, bandwidth_kbps)

        shared_gradient = None if self.shared_gradients is None else self.shared_gradients.at(output)
        balanced = self.balancer(losses, estimate, shared_gradient)
        commitment = self._commitment_loss(output)
        metrics = balance_metrics(balanced.report, output, commitment)
        if parts == 1:
            backward(output, balanced.gradient, commitment)
        else:
            replica = self.encoder.replica
            backward_in_parts(forward, self._commitment_loss, replica, audio, balanced.gradient, parts)
        parameters = [parameter for parameter in self.codec.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(cast(Tensor, parameter.grad) for parameter in parameters)
        if self.config.gradient_clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.config.gradient_clip_norm, norm)
        if not_finite := self.skipped.vote(balanced, commitment, norm):
            return self._skip(not_finite)

        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if output.quantized is not None and not self.config.freezes_quantizer:
            self.codec.quantizer.update(output.quantized)
        if adversarial is not None:
            adversarial.step()
            metrics |= adversarial.metrics
        self.average.update(self.codec)
        self.skipped.in_a_row = 0
        metrics |= {"commitment": commitment.detach(), "gradient_norm": norm}
        return metrics | step_metrics(losses, balanced.weights, num_codebooks, estimate, audio)

    def _losses(self, estimate: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """Shape: estimate [B, C, T], reference [B, C, T] -> scalars."""
        return {name: loss(estimate, reference) for name, loss in self.losses.items()}

    def _commitment_loss(self, output: CodecOutput) -> Tensor:
        """The weighted commitment loss; 0 if the latents were not quantized. Shape: -> []."""
        if output.quantized is None:
            return torch.zeros((), device=output.audio.device)
        return self.config.codebooks.commitment_loss(output.quantized.commitment)

    def _skip(self, not_finite: tuple[str, ...]) -> dict[str, Tensor]:
        """Leaves the codec as it is. A discriminator with alternating updates was updated before."""
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped.add(self.step, not_finite)
        return {}

    # ------------------------------------------------------------------------------------------ a run

    def run(self) -> dict[str, float]:
        """Trains to the end of the run, from the newest checkpoint if there is one.

        Returns:
            The last scores; empty if the run was finished before.

        Raises:
            TrainingError: Training diverged, and rollbacks did not help.
            CheckpointError: The last step could not be saved.
            TrainingStopped: A signal came. The step was finished and saved, unless it was the second signal or came
                before the first step.
        """
        with self.interruptions.handled(), self.logger.session():
            resumed = self.resume()
            self.was_finished = self.progress >= 1
            if self.was_finished:
                self.logger.message(f"the run was finished at step {self.step}: nothing is left to train")
                return {}
            self._start(resumed)
            scores: dict[str, float] = {}
            while self.progress < 1:
                try:
                    with self.interruptions.deferred():
                        scores = self._train()
                except DivergenceError as error:
                    rollback = self.checkpointer.roll_back(self, error)
                    self.validation.forget_after(rollback.step)
            self.checkpointer.check_saved(self.step)
            return scores

    def _start(self, resumed: bool) -> None:
        """Everything before the first step."""
        self.startup.log_facts(self.config, self.adversarial)
        if not resumed and self.config.init == "pca":
            self.startup.initialize_weights(self.average, self.step, self.config.codebooks.init_batches)
        self.startup.check_precision(self.adversarial, self.step, self.config.outputs_per_segment)
        if not resumed:
            if self.balancer.uses_constant_baselines:
                self.balancer.set_constant_baselines(self.startup.constant_baselines(self.losses, self.step))
            self._initialize_codebooks()
            self.validate()
            if self.config.rollback.max_rollbacks:
                self.save(None)  # for a divergence before the next checkpoint
        if self.config.compile is not None:
            self.startup.compile_networks(self.adversarial, self.config, self.step)
        self.startup.release()

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
                batch = next(batches)
                audio = self._receive(batch)
            self.meters.add(self.train_step(audio), begun)
            self.step += 1
            self.data.advance(batch)
            self.seconds = time.monotonic() - clock
            if self.config.max_minutes is not None:  # all processes must agree on the end of the run
                self.seconds = self.processes.broadcast_object(self.seconds)
            self.logger.progress(self.step, self.seconds)
            done = self.progress >= 1
            if done or self.step % self.config.log_every == 0:
                self._log()
            scores = self.validate() if done or self.step % self.config.validate_every == 0 else {}
            if done or self.step % self.config.checkpoint_every == 0:
                self.save(self.validation.best.cost(scores))
            elif self.interruptions.save:
                self.save(None, regular=False)
            if self.interruptions.stop and not done:
                message = self.checkpointer.describe(self.step)
                self.logger.end("stopped", message)
                raise self.interruptions.stopped(message)
        return scores

    def validate(self) -> dict[str, float]:
        """Scores the averaged codec on the held-out clips, and logs scores and samples."""
        count = len(self.validation.clips)
        phase = self.logger.phase("validation", f"{count} held-out clips", count)
        with phase as advance, without_tf32(self.device):
            result = self.validation.run(self.averaged_codec, self.losses, self.step, self.processes, advance)
        self.balancer.update_from_validation(result.losses)
        self.logger.metrics("validation", self.step, self.seconds, result.scores)
        for name, audio in result.samples.items():
            self.logger.audio(name, self.step, audio, self.codec.config.sample_rate)
        self.divergence_monitor.update("validation", self.step, result.scores)
        return result.scores

    def _receive(self, batch: Batch) -> Tensor:
        for path in batch.skipped_files:
            self.logger.skip_file(path, "did not decode")
        audio = batch.audio.to(self.device, non_blocking=True)
        copies = self.config.outputs_per_segment
        return audio if copies == 1 else audio.repeat_interleave(copies, 0)

    def _freeze_encoder(self) -> None:
        if self.config.freezes_encoder(self.progress) == self.encoder.frozen:
            return
        if self.encoder.frozen:
            self.encoder.unfreeze()
            self.logger.message(f"encoder trained from step {self.step}")
        else:
            self.encoder.freeze(self.averaged_codec)
            self.logger.message(f"encoder frozen at step {self.step}")

    def _initialize_codebooks(self) -> None:
        if not self.codec.quantizer.initialized and self.progress >= self.config.codebooks.start_fraction:
            self.startup.initialize_codebooks(self.step, self.config.codebooks.init_batches, self.config.seed)

    def _log(self) -> None:
        values = self.meters.read(self.data.seconds_per_step)
        if self.codec.quantizer.initialized:
            values |= codebook_metrics(self.codec.quantizer.usage())
            values["codebook_size"] = max(self.codec.config.codebook_sizes)
        values |= {"lr": self.optimizer.param_groups[-1]["lr"], "skipped_steps": self.skipped.total}
        values["rollbacks"] = self.divergence_monitor.rollbacks
        values |= loss_properties(self.losses, self.adversarial)
        self.logger.metrics("train", self.step, self.seconds, values)
        self.divergence_monitor.update("train", self.step, self.processes.broadcast_object(values), self.seconds)

    # ------------------------------------------------------------------------------------------ state

    def save(self, score: float | None, regular: bool = True) -> None:
        """Writes the model and a checkpoint, with this step's score if there is one.

        Args:
            regular: Whether the step, and not the time or a signal, is the reason.
        """
        self.checkpointer.save(self, score, regular)
        self.interruptions.saved()

    def resume(self) -> bool:
        """Loads the newest intact checkpoint; returns False if there is none."""
        return self.checkpointer.resume(self)

    def state_dict(self) -> dict[str, Any]:
        """All state that later steps depend on; tensors and primitives only."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        counters = {"step": self.step, "seconds": self.seconds}
        if self.data.has_state:
            parts["data"] = self.processes.all_gather_object(self.data.state_dict())
        return {"codec_config": self.codec.config.to_dict(), **parts, **counters, "random": torch.get_rng_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        if self.data.has_state:
            self.data.load_state_dicts(state["data"])
        self.step, self.seconds = state["step"], state["seconds"]
        torch.set_rng_state(state["random"])

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"codec": self.codec, "average": self.average, "optimizer": self.optimizer}
        parts |= {"balancer": self.balancer, "divergence_monitor": self.divergence_monitor}
        parts |= {"encoder": self.encoder, "skipped": self.skipped, "meters": self.meters}
        if self.adversarial is not None:
            parts |= {"adversarial": self.adversarial, "adversarial_optimizer": self.adversarial.optimizer}
        return parts
