"""The options that choose models and a device."""

import argparse
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
    "add_device_option",
    "add_entropy_option",
    "add_lm_option",
    "add_model_option",
    "add_model_options",
    "check_bandwidth",
    "load_codec",
    "load_language_model",
]

_MAX_BEAMS = 64


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Adds --model and --device."""
    add_model_option(command)
    add_device_option(command)


def add_device_option(command: argparse.ArgumentParser) -> None:
    """Adds --device."""
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... Default: cuda if available, otherwise cpu")


def add_model_option(command: argparse.ArgumentParser, default: str = "the bundled model") -> None:
    """Adds --model."""
    names = ", ".join(bundled_models())
    command.add_argument(
        "--model",
        metavar="MODEL",
        help=f"folder of a run, model file (.safetensors), training checkpoint (checkpoints/best.pt), or name of a "
        f"bundled model ({names}). Default: {default}",
    )


def add_entropy_option(command: argparse.ArgumentParser) -> None:
    """Adds --entropy."""
    command.add_argument(
        "--entropy",
        metavar="FILE",
        type=Path,
        help=f"entropy model of --coding transformer. Default: {ENTROPY_NAME} in the folder of the model",
    )


def add_beams_option(command: argparse.ArgumentParser) -> None:
    """Adds --beams."""
    command.add_argument(
        "--beams",
        metavar="N",
        type=int,
        default=1,
        help=f"beam search for better codes at the same bitrate: keeps the N best candidates per frame, 1 to "
        f"{_MAX_BEAMS}. More is slower. Default: 1, the nearest code of each codebook",
    )


def add_lm_option(command: argparse.ArgumentParser, purpose: str) -> None:
    """Adds --lm, which is used for a purpose."""
    text = f"weights (.th) of the encodec package's language model, {purpose}"
    command.add_argument("--lm", metavar="FILE", type=Path, help=text)


def load_codec(options: argparse.Namespace) -> PreparedCodec:
    """Loads the model that the options choose, on their device."""
    beams = getattr(options, "beams", 1)
    if not 1 <= beams <= _MAX_BEAMS:
        raise ValueError(f"--beams must be 1 to {_MAX_BEAMS}, got {beams}")
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name} cannot be used: {str(error).splitlines()[0]}") from error
    prepared = prepare(options.model, device, getattr(options, "entropy", None))
    prepared.codec.quantizer.beams = beams
    return prepared


def load_language_model(path: Path | None, config: CodecConfig) -> LanguageModel | None:
    """Loads the language model of --lm, if there is one."""
    if path is None:
        return None
    from codec.interop.encodec import read_encodec_lm  # imported here, because few files need it

    return read_encodec_lm(path, config)


def check_bandwidth(bandwidth_kbps: float, offered: Sequence[float]) -> None:
    """Raises `ValueError` if the model does not offer a bandwidth."""
    if bandwidth_kbps not in offered:
        names = ", ".join(f"{b:g}" for b in offered)
        raise ValueError(f"this model offers bandwidths of {names} kbps, got {bandwidth_kbps:g}")
