"""The registry of metrics: how each one is computed, named and displayed.

Validation, `codec evaluate`, the report and the ablation read `METRICS`. To add a metric, define one `Metric` in a
module of your own and name it as `my_package.my_module:MY_METRIC` wherever a metric is chosen.
"""

import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from torch import Tensor

from codec.evaluation.codebook_usage import bitrate_efficiency, codes_used
from codec.evaluation.perceptual import pesq, stoi, visqol, visqol_speech
from codec.evaluation.predicted_mos import distillmos, dnsmos
from codec.evaluation.signal_metrics import mel_distance, ripple_db, si_sdr_db, stft_distance

__all__ = ["METRICS", "Metric", "check_packages", "describe", "score_audio", "score_codes", "select_metrics"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: Its key in settings, logs, tables and files.
        label: Its heading in tables and charts, without the unit.
        function: For the domains "audio" and "speech", (estimate [B, C, T], reference [B, C, T], sample rate in Hz)
            -> scores [B], NaN where the metric is undefined. For the domain "codes", (counts [K, largest codebook
            size], codebook sizes) -> a number.
        higher_is_better: The direction; None where neither direction is better.
        digits: Digits shown after the decimal point.
        unit: Unit of the scores; empty for a plain number.
        domain: "audio" for any audio, "speech" where other audio has no meaningful score, "codes" for codebook usage.
        packages: Import names of the optional packages that the function needs.
        explanation: One sentence for readers of a report.
    """

    name: str
    label: str
    function: Callable[..., Any]
    higher_is_better: bool | None = None
    digits: int = 3
    unit: str = ""
    domain: Literal["audio", "speech", "codes"] = "audio"
    packages: tuple[str, ...] = ()
    explanation: str = ""

    @property
    def heading(self) -> str:
        """The label with the unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def sign(self) -> int:
        """1 when higher is better, -1 when lower is better, 0 when neither is."""
        return 0 if self.higher_is_better is None else 1 if self.higher_is_better else -1


_ENTRIES = (
    Metric("distillmos", "DistillMOS", distillmos, True, 2, domain="speech", packages=("distillmos",),
           explanation="Predicted opinion of listeners about speech, from 1 (bad) to 5 (excellent)."),
    Metric("dnsmos", "DNSMOS", dnsmos, True, 2, domain="speech", packages=("speechmos", "onnxruntime"),
           explanation="Predicted opinion of listeners about speech and its background, from 1 to 5."),
    Metric("pesq", "PESQ", pesq, True, 2, domain="speech", packages=("torchmetrics", "pesq"),
           explanation="Quality of speech compared with the recording, up to 4.64."),
    Metric("stoi", "STOI", stoi, True, domain="speech", packages=("torchmetrics", "pystoi"),
           explanation="Intelligibility of speech, at most 1."),
    Metric("visqol_speech", "ViSQOL speech", visqol_speech, True, 2, domain="speech", packages=("visqol",),
           explanation="Similarity to the recording for speech up to 8 kHz, at most 4.20."),
    Metric("visqol", "ViSQOL", visqol, True, 2, packages=("visqol",),
           explanation="Similarity to the recording for any audio, at most 4.73."),
    Metric("mel_distance", "mel distance", mel_distance, False, 4,
           explanation="Mean difference of log mel spectrograms; 0 is equal."),
    Metric("stft_distance", "STFT distance", lambda e, r, _: stft_distance(e, r), False,
           explanation="Difference of spectrograms at several resolutions; 0 is equal."),
    Metric("si_sdr_db", "SI-SDR", lambda e, r, _: si_sdr_db(e, r), True, 2, "dB",
           explanation="Level of the signal above the error of the waveform."),
    Metric("ripple_db", "ripple", ripple_db, False, 2, "dB",
           explanation="Treble that became tones instead of noise."),
    Metric("codes_used", "codes used", codes_used, True, domain="codes",
           explanation="Share of the codes that occur."),
    Metric("bitrate_efficiency", "bitrate efficiency", bitrate_efficiency, True, domain="codes",
           explanation="Entropy of the codes as a share of the bits that store them."),
)  # fmt: skip
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ENTRIES}


def select_metrics(chosen: Iterable[str | Metric], known: Mapping[str, Metric] = METRICS) -> dict[str, Metric]:
    """Chosen metrics by name, in the given order.

    Args:
        chosen: Names in `known`, import paths of the form `module:ATTRIBUTE`, or metrics.
        known: Registry that names refer to.

    Raises:
        ValueError: A name is unknown, an import path does not lead to a `Metric`, or two metrics have the same name.
    """
    selected: dict[str, Metric] = {}
    for choice in chosen:
        metric = choice if isinstance(choice, Metric) else _find(choice, known)
        if metric.name in selected:
            raise ValueError(f"metrics must have different names, got {metric.name} twice")
        selected[metric.name] = metric
    return selected


def _find(name: str, known: Mapping[str, Metric]) -> Metric:
    if ":" not in name:
        if name not in known:
            raise ValueError(f"there is no metric {name}; choose from {', '.join(known)}, or give module:ATTRIBUTE")
        return known[name]
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"metric {name} cannot be imported: {error}") from error
    if not isinstance(found, Metric):
        raise ValueError(f"metric {name}: expected a codec.evaluation.Metric, got {type(found).__name__}")
    return found


def describe(name: str, known: Mapping[str, Metric] = METRICS) -> Metric:
    """How to display scores of that name. Names outside the registry get their words as label and no direction."""
    return known.get(name) or Metric(name, name.replace("_", " "), _unavailable)


def _unavailable(*arguments: Any) -> float:
    raise NotImplementedError("this metric can be displayed but not computed")


def check_packages(metrics: Iterable[Metric]) -> None:
    """Checks that the optional packages of the given metrics are installed.

    Raises:
        ValueError: Names the missing packages and the command that installs them.
    """
    needed = dict.fromkeys(package for metric in metrics for package in metric.packages)
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} not installed: bash scripts/setup.sh evaluation (needs a C compiler)")


def score_audio(
    estimate: Tensor, reference: Tensor, sample_rate: int, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, Tensor]:
    """Scores of the metrics that compare audio, by name; metrics of codes are left out.

    Args:
        sample_rate: In Hz.

    Shape: estimate [B, C, T], reference [B, C, T] -> each score [B].
    """
    audio_metrics = {name: metric for name, metric in metrics.items() if metric.domain != "codes"}
    return {name: metric.function(estimate, reference, sample_rate) for name, metric in audio_metrics.items()}


def score_codes(
    counts: Tensor, codebook_sizes: Sequence[int], metrics: Mapping[str, Metric] = METRICS
) -> dict[str, float]:
    """Scores of the metrics of codes, by name; metrics that compare audio are left out.

    Args:
        counts: How often each code occurs, from `count_codes`.
        codebook_sizes: Size of each of the K codebooks.

    Shape: counts [K, largest codebook size].
    """
    code_metrics = {name: metric for name, metric in metrics.items() if metric.domain == "codes"}
    return {name: float(metric.function(counts, codebook_sizes)) for name, metric in code_metrics.items()}
