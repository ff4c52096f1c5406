"""Loads what the options choose: a model on a device, a language model, a bitrate."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from codec.audio import readable
from codec.bitstream.encodec.segments import LanguageModel
from codec.coding import PreparedCodec, prepare
from codec.commands.options.model import MAX_BEAMS
from codec.config import CodecConfig

__all__ = ["check_bandwidth", "chosen_bitrate", "load_codec", "load_language_model"]


def load_codec(options: argparse.Namespace, model: Path | None = None) -> PreparedCodec:
    """Loads a model on the device that the options choose.

    Args:
        options: The options of `codec.commands.options.model` that the command has.
        model: The model's file; None is the value of --model.

    Raises:
        ValueError: The model is missing or corrupt, or an option is invalid.
    """
    beams = getattr(options, "beams", 1)
    if not 1 <= beams <= MAX_BEAMS:
        raise ValueError(f"--beams must be 1 to {MAX_BEAMS}, got {beams}")
    entropy: Path | None = getattr(options, "entropy", None)
    if entropy is not None and not entropy.is_file():
        raise ValueError(
            f"--entropy must be a file that codec train-entropy wrote, there is no file {readable(entropy)}"
        )
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # the second step refuses `meta`, which has no numbers
    except (RuntimeError, AssertionError) as error:  # torch's reasons are long
        reason = str(error).splitlines()[0].split(". ")[0]
        reason = "" if "one of cpu" in reason else f" ({reason})"  # a list of all that torch knows
        raise ValueError(f"the device {name} cannot be used{reason}: expected cpu, cuda or cuda:N") from error
    prepared = prepare(options.model if model is None else model, device, entropy)
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
