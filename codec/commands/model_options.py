"""Which model a command works with, and on which device."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from codec.bitstream.entropy.model_file import ENTROPY_NAME
from codec.coding.file_codec import FileCodec
from codec.model import Codec

__all__ = [
    "BUNDLED",
    "MODEL_NAME",
    "add_beams_option",
    "add_checkpoint_option",
    "add_entropy_option",
    "add_model_options",
    "check_offered",
    "load",
    "model_path",
    "read_model",
]

MODEL_NAME = "model.safetensors"
RUNS = Path("runs")
_MOST_BEAMS = 64
BUNDLED = Path(__file__).resolve().parent.parent / "bundled" / MODEL_NAME


def add_model_options(command: argparse.ArgumentParser) -> None:
    add_checkpoint_option(command)
    command.add_argument("--device", help="cpu, cuda, cuda:1 ...; default: cuda if there is one")


def add_checkpoint_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint",
        metavar="RUN_OR_FILE",
        type=Path,
        help=f"run folder (its {MODEL_NAME}), .safetensors file or a run's checkpoint (checkpoints/best.pt); "
        f"default: the newest in ./{RUNS}, "
        "or the model that comes with the program if there is none",
    )


def add_entropy_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--entropy",
        metavar="FILE",
        type=Path,
        help=f"model of the coding transformer; default: {ENTROPY_NAME} beside the model",
    )


def add_beams_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--beams",
        metavar="N",
        type=int,
        default=1,
        help=f"look for better codes at the same bitrate: keep the N best sums of codes, up to {_MOST_BEAMS}, "
        "rather than what is nearest book by book. Default: 1",
    )


def load(options: argparse.Namespace) -> FileCodec:
    beams = getattr(options, "beams", 1)
    if not 1 <= beams <= _MOST_BEAMS:
        raise ValueError(f"--beams must be 1 to {_MOST_BEAMS}, got {beams}")
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
        print(f"using {path}", file=sys.stderr if getattr(options, "target", None) == Path("-") else sys.stdout)
    return FileCodec(codec, getattr(options, "entropy", None) or path.with_name(ENTROPY_NAME))


def model_path(checkpoint: Path | None) -> Path:
    if checkpoint is not None:
        return checkpoint / MODEL_NAME if checkpoint.is_dir() else checkpoint
    models = sorted(RUNS.glob(f"*/{MODEL_NAME}"), key=lambda path: path.stat().st_mtime)
    return models[-1] if models else BUNDLED


def read_model(path: Path) -> Codec:
    """The codec of a model file, or of a run's checkpoint what the run would have saved as its model then.

    Raises:
        ValueError: It is missing, damaged, or no codec's.
    """
    if path.suffix != ".pt":
        return Codec.load(path)
    from codec.training.checkpoint.pretrained import averaged_codec
    from codec.training.checkpoint.store import CheckpointError  # here, because only this needs what trains

    try:
        return averaged_codec(path)
    except CheckpointError as error:
        raise ValueError(str(error)) from error


def check_offered(bandwidth_kbps: float, offered: Sequence[float]) -> None:
    if bandwidth_kbps not in offered:
        names = ", ".join(f"{b:g}" for b in offered)
        raise ValueError(f"this model offers bandwidths of {names} kbps, not {bandwidth_kbps:g}")
