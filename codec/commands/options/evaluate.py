"""The options of `codec evaluate`."""

import argparse

from codec.commands.options.files import file_path
from codec.commands.options.model import add_beams_option, add_model_options

__all__ = ["add"]

_EXAMPLES = """examples:
  codec evaluate --data held_out                             the bundled model, at all its bitrates
  codec evaluate --data held_out --model runs/mine -o scores --bitrates 3 6
  codec evaluate --data held_out --metrics mel_distance      one metric, in seconds
  codec evaluate --data held_out --against 'lame --quiet -b 32 {in} {encoded} && lame --decode {encoded} {out}'"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    evaluate = commands.add_parser(
        "evaluate",
        help="scores and bitrates of a model on held-out audio",
        description="Encodes and decodes the audio of a folder at each bitrate, and with Opus at 6, 12 and 24 kbps. "
        "Prints the mean scores of each subfolder and writes evaluation.json, evaluation.csv (one row per clip and "
        "bitrate), evaluation.md (the tables of a model card), rate_distortion.png and listening.html (a MUSHRA test "
        "of two clips of each subfolder). ViSQOL takes most of the time, about the duration of the audio for each "
        "bitrate.",
        epilog=_EXAMPLES,
    )
    evaluate.add_argument(
        "--data", metavar="FOLDER", type=file_path, required=True, help="audio that was not used for training"
    )
    evaluate.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=file_path,
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
    evaluate.set_defaults(module="codec.commands.evaluate")
