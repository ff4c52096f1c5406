"""The options that choose a model, a device and a bitrate."""

import argparse

from codec.bundled import bundled_models
from codec.commands.options.files import file_path

__all__ = [
    "MAX_BEAMS",
    "add_beams_option",
    "add_bitrate_option",
    "add_device_option",
    "add_entropy_option",
    "add_lm_option",
    "add_model_option",
    "add_model_options",
]

_Options = argparse._ActionsContainer  # a parser, or a group of options
MAX_BEAMS = 64


def add_model_options(command: _Options, default: str | None = None) -> None:
    """Adds --model and --device."""
    add_model_option(command, default)
    add_device_option(command)


def add_model_option(command: _Options, default: str | None = None) -> None:
    """Adds --model.

    Args:
        default: What None stands for; None is the bundled model.
    """
    names = ", ".join(bundled_models())
    command.add_argument(
        "--model",
        metavar="MODEL",
        help="folder of a run, model file (.safetensors), training checkpoint (checkpoints/best.pt), or bundled model "
        f"({names}). Default: {default or 'the bundled model'}",
    )


def add_device_option(command: _Options) -> None:
    """Adds --device."""
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... Default: cuda if available, otherwise cpu")


def add_bitrate_option(command: _Options) -> None:
    """Adds --bitrate."""
    command.add_argument(
        "-b",
        "--bitrate",
        metavar="KBPS",
        type=float,
        help="kbit/s, one of those that the model offers (codec info MODEL). Default: the highest",
    )


def add_entropy_option(command: _Options) -> None:
    """Adds --entropy."""
    command.add_argument(
        "--entropy",
        metavar="FILE",
        type=file_path,
        help="entropy model of --coding transformer. Default: entropy.safetensors in the folder of the model",
    )


def add_beams_option(command: _Options) -> None:
    """Adds --beams."""
    command.add_argument(
        "--beams",
        metavar="N",
        type=int,
        default=1,
        help=f"beam search for better codes at the same bitrate: keeps the N best candidates per frame, 1 to "
        f"{MAX_BEAMS}. More is slower. Default: 1, the nearest code of each codebook",
    )


def add_lm_option(command: _Options, purpose: str) -> None:
    """Adds --lm, which is used for a purpose."""
    text = f"weights (.th) of the encodec package's language model, {purpose}"
    command.add_argument("--lm", metavar="FILE", type=file_path, help=text)
