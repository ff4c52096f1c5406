"""Scores of the codec on held-out clips, and samples to listen to."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.audio import write_audio
from codec.evaluation import (
    Metric,
    check_packages,
    codebook_usage,
    count_codes,
    score_audio,
    score_codes,
    select_metrics,
    select_speech_groups,
)
from codec.model import Codec
from codec.ranges import NonNegativeInt, check_ranges
from codec.training.best_score import BestScore
from codec.training.distributed import Processes
from codec.training.logging.metrics import codebook_metrics
from data import HeldOutClip
from losses import minimum_samples

__all__ = ["Validation", "ValidationResult"]


class ValidationResult(NamedTuple):
    """Result of one validation."""

    # GROUP/METRIC for each group of clips, all/LOSS_loss, and codebook/K/QUANTITY.
    scores: dict[str, float]
    losses: dict[str, float]  # loss name -> mean over the clips that are long enough for the loss
    samples: dict[str, Tensor]  # clip name -> estimate [C, T]; only in the main process


class Validation:
    """Encodes and decodes held-out clips at one bandwidth, and compares the result with the clips.

    Scores are means over the clips of a group. Groups are never averaged together: a mean over speech and music hides
    both. Before the codebooks are initialized, latents are not quantized.

    Args:
        clips: Clips of any length; each one is coded by itself.
        samples_folder: Folder for WAV files of the first `samples_per_group` clips of each group.
        bandwidth_kbps: Bandwidth to code at.
        metrics: Metrics to compute; see `codec.evaluation.select_metrics`.
        speech_groups: Groups that metrics of speech are computed for; None for the rule of
            `codec.evaluation.select_speech_groups`.
        best: METRIC or GROUP/METRIC that checkpoints are ranked by; see `BestScore`. It is computed as well.

    Raises:
        ValueError: A metric or a group is unknown, a package that a metric needs is not installed, or
            `samples_per_group` is negative.
    """

    def __init__(
        self,
        clips: Sequence[HeldOutClip],
        samples_folder: Path,
        bandwidth_kbps: float,
        samples_per_group: NonNegativeInt = 2,
        metrics: Sequence[str | Metric] = ("mel_distance", "si_sdr_db", "ripple_db"),
        speech_groups: Sequence[str] | None = None,
        best: str = "mel_distance",
    ) -> None:
        check_ranges(Validation.__init__, locals(), "validation.")
        self.best = BestScore.parse(best)
        self.metrics = select_metrics(metrics) | {self.best.metric.name: self.best.metric}
        check_packages(self.metrics.values())
        self.clips = list(clips)
        groups = list(dict.fromkeys(clip.group for clip in self.clips))
        self.speech = select_speech_groups(groups, speech_groups)
        self.best.check_groups(groups, self.speech)
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
        codes: dict[str, list[Tensor]] = defaultdict(list)  # group -> [1, K, F] of each segment
        samples = {}
        for clip in self.clips:
            reference = clip.audio[None].to(device)
            estimate, clip_codes = self._reconstruct(codec, reference)
            codes[clip.group] += clip_codes
            finite = bool(estimate.isfinite().all())
            applied = {k: m for k, m in self.metrics.items() if m.domain != "speech" or clip.group in self.speech}
            for metric, value in score_audio(estimate, reference, sample_rate, applied).items():
                if not (finite and bool(value.isnan())):  # otherwise it is undefined for this clip
                    scores[f"{clip.group}/{metric}"].append(float(value))
            for name, loss in losses.items():
                if reference.shape[-1] >= minimum_samples(loss):
                    loss_values[name].append(float(loss(estimate, reference)))
            if clip.name in self._sampled:
                samples[clip.name] = estimate[0].cpu()
                self._write(clip, samples[clip.name], step, sample_rate)
            advance()
        mean_losses = _means(loss_values)
        mean_scores = _means(scores) | self._code_scores(codes, codec.config.codebook_sizes)
        mean_scores |= {f"all/{name}_loss": value for name, value in mean_losses.items()}
        return ValidationResult(mean_scores, mean_losses, samples)

    def _code_scores(self, codes: Mapping[str, Sequence[Tensor]], codebook_sizes: Sequence[int]) -> dict[str, float]:
        """Metrics of codes for each group, and the usage of the codebooks over all clips."""
        counts = {
            group: count_codes(
                torch.cat([each.flatten(2) for each in of_group], dim=2), codebook_sizes[: of_group[0].shape[1]]
            )
            for group, of_group in codes.items()
            if of_group
        }
        if not counts:
            return {}
        total = torch.stack(list(counts.values())).sum(0)
        sizes = codebook_sizes[: len(total)]
        scores = {
            f"{group}/{name}": value
            for group, own in counts.items()
            for name, value in score_codes(own, sizes, self.metrics).items()
        }
        return scores | codebook_metrics(codebook_usage(total, sizes))

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
