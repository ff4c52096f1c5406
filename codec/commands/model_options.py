"""The options that choose a model, a device and a bitrate."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from codec.bitstream.encodec.segments import LanguageModel
from codec.bitstream.entropy.model_file import ENTROPY_NAME
from codec.coding import PreparedCodec, prepare
from codec.config import CodecConfig
from codec.models import bundled_models

__all__ = [
    "add_beams_option",
    "add_bitrate_option",
    "add_device_option",
    "add_entropy_option",
    "add_lm_option",
    "add_model_option",
    "add_model_options",
    "check_bandwidth",
    "chosen_bitrate",
    "load_codec",
    "load_language_model",
]

_Options = argparse._ActionsContainer  # a parser, or a group of options
_MAX_BEAMS = 64


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
        type=Path,
        help=f"entropy model of --coding transformer. Default: {ENTROPY_NAME} in the folder of the model",
    )


def add_beams_option(command: _Options) -> None:
    """Adds --beams."""
    command.add_argument(
        "--beams",
        metavar="N",
        type=int,
        default=1,
        help=f"beam search for better codes at the same bitrate: keeps the N best candidates per frame, 1 to "
        f"{_MAX_BEAMS}. More is slower. Default: 1, the nearest code of each codebook",
    )


def add_lm_option(command: _Options, purpose: str) -> None:
    """Adds --lm, which is used for a purpose."""
    text = f"weights (.th) of the encodec package's language model, {purpose}"
    command.add_argument("--lm", metavar="FILE", type=Path, help=text)


def load_codec(options: argparse.Namespace, model: Path | None = None) -> PreparedCodec:
    """Loads a model on the device that the options choose.

    Args:
        options: The options of this module that the command has.
        model: The model's file; None is the value of --model.

    Raises:
        ValueError: The model is missing or corrupt, or an option is invalid.
    """
    beams = getattr(options, "beams", 1)
    if not 1 <= beams <= _MAX_BEAMS:
        raise ValueError(f"--beams must be 1 to {_MAX_BEAMS}, got {beams}")
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name} cannot be used: {str(error).splitlines()[0]}") from error
    prepared = prepare(options.model if model is None else model, device, getattr(options, "entropy", None))
    prepared.codec.quantizer.beams = beams
    if getattr(options, "verbose", False):
        print(f"{prepared.name} on {device}, {torch.get_num_threads()} threads", file=sys.stderr)
    return prepared


def load_language_model(path: Path | None, config: CodecConfig) -> LanguageModel | None:
    """Loads the language model of --lm, if there is one."""
    if path is None:
        return None
    from codec.interop.encodec import read_encodec_lm  # imported here, because few files need it

    return read_encodec_lm(path, config)


def chosen_bitrate(options: argparse.Namespace, config: CodecConfig) -> float:
    """The value of --bitrate, or the model's highest.

    Raises:
        ValueError: The model does not offer it.
    """
    bitrate: float = max(config.bandwidths_kbps) if options.bitrate is None else options.bitrate
    check_bandwidth(bitrate, config.bandwidths_kbps)
    return bitrate


def check_bandwidth(bandwidth_kbps: float, offered: Sequence[float]) -> None:
    """Raises `ValueError` if the model does not offer a bitrate."""
    if bandwidth_kbps not in offered:
        names = ", ".join(f"{b:g}" for b in offered)
        raise ValueError(f"this model offers bitrates of {names} kbit/s, got {bandwidth_kbps:g}")
