"""The options of `codec train-entropy`."""

import argparse

from codec.commands.options.files import file_path
from codec.commands.options.model import add_model_options

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    command = commands.add_parser(
        "train-entropy",
        help="train an entropy model, which makes encoded files smaller",
        description="Trains the small transformer of codec encode --coding transformer on the codes of audio files. "
        "Writes it to entropy.safetensors in the folder of the model, where encode and decode find it. Prints what "
        "each coding saves on held-out audio. A file that cannot be read is reported on stderr, and the exit status is "
        "1.",
    )
    command.add_argument("--data", metavar="FOLDER", type=file_path, nargs="+", required=True, help="audio to train on")
    command.add_argument(
        "--held-out",
        metavar="FOLDER",
        type=file_path,
        nargs="+",
        default=[],
        help="audio for the table, one row for each folder. Default: 5 %% of the data, in whole files",
    )
    budget = command.add_mutually_exclusive_group()
    budget.add_argument(
        "--minutes", type=float, default=20.0, help="duration of the training, after encoding. Default: %(default)g"
    )
    budget.add_argument(
        "--steps", type=int, help="number of training steps instead. On a CPU the result is then reproducible"
    )
    command.add_argument("--seed", type=int, default=0, help="seed of weights and draws. Default: %(default)d")
    command.add_argument(
        "--output", metavar="FILE", type=file_path, help="default: entropy.safetensors in the folder of the model"
    )
    add_model_options(command)
    command.set_defaults(module="codec.commands.train_entropy")
