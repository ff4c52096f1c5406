"""Scores of the codec on held-out clips, and samples to listen to."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.audio import write_audio
from codec.evaluation import Metric, check_packages, codebook_usage, count_codes, score_audio, select_metrics
from codec.model import Codec
from codec.training.distributed import Processes
from codec.training.logging.meters import codebook_metrics
from data import HeldOutClip
from losses import minimum_samples

__all__ = ["Validation", "ValidationResult"]


class ValidationResult(NamedTuple):
    """Result of one validation."""

    # GROUP/METRIC for each group of clips and for the group `all`, all/LOSS_loss, and codebook/K/QUANTITY.
    scores: dict[str, float]
    losses: dict[str, float]  # loss name -> mean over the clips that are long enough for the loss
    samples: dict[str, Tensor]  # clip name -> estimate [C, T]; only in the main process


class Validation:
    """Encodes and decodes held-out clips at one bandwidth, and compares the result with the clips.

    Before the codebooks are initialized, latents are not quantized.

    Args:
        clips: Clips of any length; each one is coded by itself.
        samples_folder: Folder for WAV files of the first `samples_per_group` clips of each group.
        bandwidth_kbps: Bandwidth to code at.
        metrics: Metrics to compute; see `codec.evaluation.select_metrics`. Checkpoints are ranked by mel_distance.

    Raises:
        ValueError: A metric is unknown, a package that it needs is not installed, or `samples_per_group` is negative.
    """

    def __init__(
        self,
        clips: Sequence[HeldOutClip],
        samples_folder: Path,
        bandwidth_kbps: float,
        samples_per_group: int = 2,
        metrics: Sequence[str | Metric] = ("mel_distance", "si_sdr_db", "ripple_db"),
    ) -> None:
        if not isinstance(samples_per_group, int) or samples_per_group < 0:
            raise ValueError(
                f"validation.samples_per_group must be a whole number of at least 0, got {samples_per_group!r}"
            )
        self.metrics = select_metrics(metrics)
        check_packages(self.metrics.values())
        self.clips = list(clips)
        self.samples_folder = samples_folder
        self.bandwidth_kbps = bandwidth_kbps
        names: dict[str, list[str]] = defaultdict(list)
        for clip in self.clips:
            names[clip.group].append(clip.name)
        self._sampled = {name for group in names.values() for name in group[:samples_per_group]}

    def run(
        self,
        codec: Codec,
        losses: Mapping[str, nn.Module],
        step: int,
        processes: Processes | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> ValidationResult:
        """Validates in the main process; all processes get the scores and losses.

        Args:
            losses: Name -> loss of (estimate, reference), measured as well.
            step: Step in the names of the samples.
            advance: Called after each clip.
        """
        processes = processes or Processes()
        result = self._score(codec, losses, step, advance) if processes.is_main else ValidationResult({}, {}, {})
        scores, loss_values = processes.broadcast_object((result.scores, result.losses))
        return result._replace(scores=scores, losses=loss_values)

    def forget_after(self, step: int) -> None:
        """Deletes the samples of later steps."""
        for path in self.samples_folder.glob("*.step*.wav"):
            if int(path.name.rpartition(".step")[2].removesuffix(".wav")) > step:
                path.unlink(missing_ok=True)  # several processes call this

    @torch.no_grad()
    def _score(
        self, codec: Codec, losses: Mapping[str, nn.Module], step: int, advance: Callable[[], None]
    ) -> ValidationResult:
        """Scores all clips in float32."""
        sample_rate, device = codec.config.sample_rate, next(codec.parameters()).device
        scores: dict[str, list[float]] = defaultdict(list)
        loss_values: dict[str, list[float]] = defaultdict(list)
        codes: list[Tensor] = []
        samples = {}
        for clip in self.clips:
            reference = clip.audio[None].to(device)
            estimate, clip_codes = self._reconstruct(codec, reference)
            codes += clip_codes
            finite = bool(estimate.isfinite().all())
            for metric, value in score_audio(estimate, reference, sample_rate, self.metrics).items():
                if finite and bool(value.isnan()):
                    continue  # undefined for this clip
                for group in ("all", clip.group):
                    scores[f"{group}/{metric}"].append(float(value))
            for name, loss in losses.items():
                if reference.shape[-1] >= minimum_samples(loss):
                    loss_values[name].append(float(loss(estimate, reference)))
            if clip.name in self._sampled:
                samples[clip.name] = estimate[0].cpu()
                self._write(clip, samples[clip.name], step, sample_rate)
            advance()
        mean_losses = _means(loss_values)
        mean_scores = _means(scores) | {f"all/{name}_loss": value for name, value in mean_losses.items()}
        if codes:
            sizes = codec.config.codebook_sizes[: codes[0].shape[1]]
            counts = count_codes(torch.cat([each.flatten(2) for each in codes], dim=2), sizes)
            mean_scores |= codebook_metrics(codebook_usage(counts, sizes))
        return ValidationResult(mean_scores, mean_losses, samples)

    def _reconstruct(self, codec: Codec, reference: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The estimate, and the codes of each segment. Shape: reference [1, C, T] -> [1, C, T], [1, K, F] each."""
        if not codec.quantizer.initialized:
            return codec(reference, quantize=False).audio, []
        segments = codec.encode_segments(reference, self.bandwidth_kbps)
        return codec.decode_segments(segments, reference.shape[-1]), [segment.codes for segment in segments]

    def _write(self, clip: HeldOutClip, estimate: Tensor, step: int, sample_rate: int) -> None:
        reference = self.samples_folder / f"{clip.name}.reference.wav"
        if not reference.exists():
            write_audio(reference, clip.audio, sample_rate)
        write_audio(self.samples_folder / f"{clip.name}.step{step:07d}.wav", estimate, sample_rate)


def _means(values: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: sum(each) / len(each) for name, each in values.items()}
