"""`codec evaluate`."""

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from codec.atomic_file import new_folder
from codec.audio import readable
from codec.bundled import bundled_models
from codec.coding import PreparedCodec
from codec.commands.loading import check_bandwidth, load_codec
from codec.commands.messages import print_error
from codec.evaluation.coders import codec_coders, command_coders, opus_coders, recording
from codec.evaluation.metrics import METRICS, Metric, check_packages, select_metrics
from codec.evaluation.rate_distortion import evaluate_folder
from codec.evaluation.rate_distortion_output import print_evaluation, write_evaluation
from codec.models import model_path

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    if options.clips < 1:
        raise ValueError(f"--clips must be 1 or more, got {options.clips}")
    if not 0 < options.seconds < math.inf:
        raise ValueError(f"--seconds must be above 0, got {options.seconds:g}")
    if not options.data.is_dir():
        raise ValueError(f"--data must be a folder of audio, got {readable(options.data)}")
    metrics = select_metrics(options.metrics or METRICS)
    check_packages(metrics.values())
    model = model_path(options.model)
    prepared = load_codec(options)
    offered = prepared.codec.config.bandwidths_kbps
    bandwidths_kbps = sorted(set(options.bitrates or offered))
    for bandwidth_kbps in bandwidths_kbps:
        check_bandwidth(bandwidth_kbps, offered)
    output = options.output or (Path() if model in bundled_models().values() else model.parent) / "evaluation"
    with new_folder(output):  # fails now rather than after the work
        return _evaluate(options, prepared, bandwidths_kbps, metrics, model, output)


def _evaluate(
    options: argparse.Namespace,
    prepared: PreparedCodec,
    bandwidths_kbps: Sequence[float],
    metrics: Mapping[str, Metric],
    model: Path,
    output: Path,
) -> int:
    errors = Console(stderr=True)

    def tracked(names: Sequence[str]) -> Iterable[str]:
        title = escape(readable(options.data.name))
        return track(names, title, console=errors, disable=not errors.is_terminal)

    config = prepared.codec.config
    opus, notes = opus_coders(config.sample_rate, config.channels)
    against = [coder for line in options.against for coder in command_coders(line, bandwidths_kbps, config.sample_rate)]
    coders = [recording(), *codec_coders(prepared, bandwidths_kbps), *opus, *against]
    result = evaluate_folder(
        options.data, coders, config, options.clips, options.seconds, metrics, options.speech_groups, tracked
    )
    result.notes.extend(notes)
    about = {
        "model": str(model),
        "fingerprint": prepared.fingerprint,
        "data": str(options.data),
        "sample_rate": config.sample_rate,
        "beams": options.beams,
    }
    written = write_evaluation(result, about, output)  # first: the reader of a pipe may have ended
    print_evaluation(result)
    for path in written:
        print(readable(path))
    for reason in result.skipped_files:
        print_error(ValueError(reason))
    return 1 if result.skipped_files else 0
