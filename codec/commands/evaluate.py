"""`codec evaluate`."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from codec.bundled import bundled_models
from codec.commands.loading import check_bandwidth, load_codec
from codec.commands.messages import print_error
from codec.evaluation.coders import codec_coders, command_coders, opus_coders, recording
from codec.evaluation.metrics import METRICS, check_packages, select_metrics
from codec.evaluation.rate_distortion import evaluate_folder
from codec.evaluation.rate_distortion_output import print_evaluation, write_evaluation
from codec.models import model_path

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    metrics = select_metrics(options.metrics or METRICS)
    check_packages(metrics.values())
    model = model_path(options.model)
    prepared = load_codec(options)
    offered = prepared.codec.config.bandwidths_kbps
    bandwidths_kbps = sorted(set(options.bitrates or offered))
    for bandwidth_kbps in bandwidths_kbps:
        check_bandwidth(bandwidth_kbps, offered)
    output = options.output or (Path() if model in bundled_models().values() else model.parent) / "evaluation"
    output.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    errors = Console(stderr=True)

    def tracked(names: Sequence[str]) -> Iterable[str]:
        return track(names, options.data.name, console=errors, disable=not errors.is_terminal)

    config = prepared.codec.config
    opus, notes = opus_coders(config.sample_rate, config.channels)
    against = [coder for line in options.against for coder in command_coders(line, bandwidths_kbps, config.sample_rate)]
    coders = [recording(), *codec_coders(prepared, bandwidths_kbps), *opus, *against]
    result = evaluate_folder(
        options.data, coders, config, options.clips, options.seconds, metrics, options.speech_groups, tracked
    )
    result.notes.extend(notes)
    print_evaluation(result)
    about = {
        "model": str(model),
        "fingerprint": prepared.fingerprint,
        "data": str(options.data),
        "sample_rate": config.sample_rate,
        "beams": options.beams,
    }
    for path in write_evaluation(result, about, output):
        print(path)
    for reason in result.skipped_files:
        print_error(ValueError(reason))
    return 1 if result.skipped_files else 0
