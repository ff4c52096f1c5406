"""`codec evaluate`."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from codec.commands.messages import print_error
from codec.commands.model_options import add_beams_option, add_model_options, check_bandwidth, load_codec
from codec.models import bundled_models, model_path

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    evaluate = commands.add_parser(
        "evaluate",
        help="scores and bitrates of a model on held-out audio",
        description="Encodes and decodes the audio of a folder at each bitrate, and with Opus at 6, 12 and 24 kbps. "
        "Prints the mean scores of each subfolder and writes evaluation.json, evaluation.csv (one row per clip and "
        "bitrate), evaluation.md (the tables of a model card) and rate_distortion.png. ViSQOL takes most of the time, "
        "about the duration of the audio for each bitrate.",
    )
    evaluate.add_argument(
        "--data", metavar="FOLDER", type=Path, required=True, help="audio that was not used for training"
    )
    evaluate.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="default: evaluation/ in the folder of the model; here for a bundled one",
    )
    evaluate.add_argument(
        "--bitrates", metavar="KBPS", type=float, nargs="+", help="some of the model's bitrates. Default: all"
    )
    evaluate.add_argument(
        "--clips", metavar="N", type=int, default=20, help="maximum number of files per subfolder. Default: %(default)s"
    )
    evaluate.add_argument(
        "--seconds", metavar="S", type=float, default=10.0, help="maximum seconds per file. Default: %(default)g"
    )
    evaluate.add_argument(
        "--metrics", metavar="NAME", nargs="+", help="metrics by name or as my_package.my_module:METRIC. Default: all"
    )
    evaluate.add_argument(
        "--speech-groups",
        metavar="GROUP",
        nargs="+",
        help="subfolders with speech, for metrics of speech. Default: those with `speech` in their name, or all",
    )
    evaluate.add_argument(
        "--against",
        metavar="COMMAND",
        action="append",
        default=[],
        help="another codec in the same table: a line for the shell with {in} (WAV), {out} (audio) and, if it has "
        "them, {kbps} and {encoded}, the file whose size is measured. It can be given several times",
    )
    add_beams_option(evaluate)
    add_model_options(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    # Imported here, because only this command needs the packages that score and draw.
    from rich.console import Console
    from rich.progress import track

    from codec.evaluation.coders import codec_coders, command_coders, opus_coders, recording
    from codec.evaluation.metrics import METRICS, check_packages, select_metrics
    from codec.evaluation.rate_distortion import evaluate_folder
    from codec.evaluation.rate_distortion_output import print_evaluation, write_evaluation

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
        "beams": options.beams,
    }
    for path in write_evaluation(result, about, output):
        print(path)
    for reason in result.skipped_files:
        print_error(ValueError(reason))
    return 1 if result.skipped_files else 0
