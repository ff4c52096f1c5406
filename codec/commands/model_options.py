"""The options that choose models and a device."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from codec.bitstream.encodec.segments import LanguageModel
from codec.bitstream.entropy.model_file import ENTROPY_NAME
from codec.coding import PreparedCodec
from codec.config import CodecConfig
from codec.model import Codec
from codec.model_file import load_model

__all__ = [
    "BUNDLED",
    "MODEL_NAME",
    "add_beams_option",
    "add_checkpoint_option",
    "add_entropy_option",
    "add_lm_option",
    "add_model_options",
    "check_bandwidth",
    "load_codec",
    "load_language_model",
    "model_path",
    "read_model",
]

MODEL_NAME = "model.safetensors"
RUNS = Path("runs")
BUNDLED = Path(__file__).resolve().parent.parent / "bundled" / MODEL_NAME
_MAX_BEAMS = 64


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Adds --checkpoint and --device."""
    add_checkpoint_option(command)
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... Default: cuda if available, otherwise cpu")


def add_checkpoint_option(command: argparse.ArgumentParser) -> None:
    """Adds --checkpoint."""
    command.add_argument(
        "--checkpoint",
        metavar="RUN_OR_FILE",
        type=Path,
        help=f"run folder (uses its {MODEL_NAME}), .safetensors file, or training checkpoint (checkpoints/best.pt). "
        f"Default: the newest model in ./{RUNS}, or the bundled model if there is none",
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
    path = model_path(options.checkpoint)
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name} cannot be used: {str(error).splitlines()[0]}") from error
    codec = read_model(path).to(device)
    codec.quantizer.beams = beams
    if options.checkpoint is None:
        is_piped = getattr(options, "target", None) == Path("-")
        print(f"using {path}", file=sys.stderr if is_piped else sys.stdout)
    return PreparedCodec(codec, getattr(options, "entropy", None) or path.with_name(ENTROPY_NAME))


def model_path(checkpoint: Path | None) -> Path:
    """The model file for the value of --checkpoint."""
    if checkpoint is not None:
        return checkpoint / MODEL_NAME if checkpoint.is_dir() else checkpoint
    models = sorted(RUNS.glob(f"*/{MODEL_NAME}"), key=lambda path: path.stat().st_mtime)
    return models[-1] if models else BUNDLED


def read_model(path: Path) -> Codec:
    """Loads a model file, or from a training checkpoint the model that the run would have saved at that step.

    Raises:
        ValueError: The file is missing, corrupt, or not a codec.
    """
    if path.suffix != ".pt":
        return load_model(path)
    # Imported here, because only checkpoints need the training code.
    from codec.training.checkpoint.file import CheckpointError
    from codec.training.checkpoint.pretrained import read_averaged_codec

    try:
        return read_averaged_codec(path)
    except CheckpointError as error:
        raise ValueError(str(error)) from error


def load_language_model(path: Path | None, config: CodecConfig) -> LanguageModel | None:
    """Loads the language model of --lm, if there is one."""
    if path is None:
        return None
    from codec.bitstream.encodec.language_model import read_encodec_lm  # imported here, because few files need it

    return read_encodec_lm(path, config)


def check_bandwidth(bandwidth_kbps: float, offered: Sequence[float]) -> None:
    """Raises `ValueError` if the model does not offer a bandwidth."""
    if bandwidth_kbps not in offered:
        names = ", ".join(f"{b:g}" for b in offered)
        raise ValueError(f"this model offers bandwidths of {names} kbps, got {bandwidth_kbps:g}")
