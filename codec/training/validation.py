"""Scores on held-out clips, and the sounds themselves."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.atomic_file import atomic_write
from codec.evaluation import Metric, codebook_usage, count_codes, score_audio, select_metrics
from codec.model import Codec
from codec.training.distributed import Processes
from codec.training.logging.meters import codebook_metrics
from data import HeldOutClip, write_wav

__all__ = ["Validation", "ValidationResult"]


class ValidationResult(NamedTuple):
    """Of one validation."""

    # <group>/mel_distance, /si_sdr_db and /ripple_db for `all` and each group, all/<loss>_loss, codebook/...
    scores: dict[str, float]
    losses: dict[str, float]  # loss name -> mean over the clips that are long enough for it
    samples: dict[str, Tensor]  # clip name -> estimate [C, T]


class Validation:
    """Codes held-out clips at one bandwidth and scores them against themselves.

    Until the codebooks have started, latents pass through unquantized.

    Args:
        clips: What to code; scored singly, so they may differ in length.
        samples_folder: Where the first `samples_per_group` clips of each group are written.
        bandwidth_kbps: Rate to code at.
        metrics: What to compute, see `codec.evaluation.select_metrics`.
    """

    def __init__(
        self,
        clips: Sequence[HeldOutClip],
        samples_folder: Path,
        bandwidth_kbps: float,
        samples_per_group: int = 2,
        metrics: Sequence[str | Metric] = ("mel_distance", "si_sdr_db", "ripple_db"),
    ) -> None:
        self.metrics = select_metrics(metrics)
        self.clips = list(clips)
        self.samples_folder = samples_folder
        self.bandwidth_kbps = bandwidth_kbps
        seen: dict[str, int] = defaultdict(int)
        self.kept: set[str] = set()
        for clip in self.clips:
            seen[clip.group] += 1
            if seen[clip.group] <= samples_per_group:
                self.kept.add(clip.name)

    def shared(
        self, codec: Codec, losses: Mapping[str, nn.Module], step: int, processes: Processes
    ) -> ValidationResult:
        """The first process does it, and keeps the samples; all of them get scores and losses."""
        result = self(codec, losses, step) if processes.is_main else ValidationResult({}, {}, {})
        scores, held_out = processes.broadcast_object((result.scores, result.losses))
        return result._replace(scores=scores, losses=held_out)

    def forget_after(self, step: int) -> None:
        """Removes the sounds of later steps."""
        for path in self.samples_folder.glob("*.step*.wav"):
            if int(path.name.rpartition(".step")[2].removesuffix(".wav")) > step:
                path.unlink()

    @torch.no_grad()
    def __call__(self, codec: Codec, losses: Mapping[str, nn.Module], step: int) -> ValidationResult:
        """Runs in float32 whatever the training precision.

        Args:
            losses: Name -> loss of (estimate, reference), to be measured too.
        """
        config = codec.config
        device = next(codec.parameters()).device
        quantize = bool(codec.quantizer.started)
        books = config.codebooks_for(self.bandwidth_kbps)
        per_group: dict[str, list[float]] = defaultdict(list)
        per_loss: dict[str, list[float]] = defaultdict(list)
        codes, samples = [], {}
        for clip in self.clips:
            reference = clip.audio[None].to(device)
            if quantize:
                segments = codec.encode(reference, self.bandwidth_kbps)
                estimate = codec.decode(segments, reference.shape[-1])
                codes += [segment.codes for segment in segments]
            else:
                estimate = codec(reference, quantize=False).audio
            of_clip = score_audio(estimate, reference, config.sample_rate, self.metrics)
            for group in ("all", clip.group):
                for metric, value in of_clip.items():
                    per_group[f"{group}/{metric}"].append(float(value))
            for name, loss in losses.items():
                if reference.shape[-1] >= getattr(loss, "minimum_samples", 1):
                    per_loss[name].append(float(loss(estimate, reference)))
            if clip.name in self.kept:
                samples[clip.name] = estimate[0].cpu()
                self._write(clip, samples[clip.name], step, config.sample_rate)
        scores = _means(per_group)
        held_out = _means(per_loss)
        scores |= {f"all/{name}_loss": value for name, value in held_out.items()}
        if codes:
            sizes = [config.codebook_size] * books
            counts = count_codes(torch.cat([c.flatten(2) for c in codes], dim=2)[:, :books], sizes)
            scores |= codebook_metrics(codebook_usage(counts, sizes))
        return ValidationResult(scores, held_out, samples)

    def _write(self, clip: HeldOutClip, estimate: Tensor, step: int, sample_rate: int) -> None:
        self.samples_folder.mkdir(parents=True, exist_ok=True)
        reference = self.samples_folder / f"{clip.name}.reference.wav"
        if not reference.exists():
            with atomic_write(reference) as temporary:  # a run that is killed here must not keep half of it for good
                write_wav(temporary, clip.audio, sample_rate)
        write_wav(self.samples_folder / f"{clip.name}.step{step:07d}.wav", estimate, sample_rate)


def _means(values: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: sum(each) / len(each) for name, each in values.items()}
