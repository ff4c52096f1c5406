"""`codec train-entropy`."""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec.audio.reader import AUDIO_SUFFIXES, SoundFileSource
from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyModel
from codec.coding.file_codec import FileCodec
from codec.commands.messages import complain
from codec.commands.model_options import add_model_options, load, model_path

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["add"]

_CONTEXT_SECONDS = 3.5
_MINUTES = 20.0
_ALL = "held out"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "train-entropy",
        help="learns the codes of a model, so that files get smaller",
        description="Trains the small transformer of `encode --coding transformer` on the codes of audio, writes it to "
        f"{ENTROPY_NAME} beside the model, where encode and decode find it, and prints what the codings save of codes "
        "that were not learnt from. A file that cannot be read is one line on stderr and exit status 1.",
    )
    command.add_argument("--data", metavar="FOLDER", type=Path, nargs="+", required=True, help="audio to learn from")
    command.add_argument(
        "--held-out",
        metavar="FOLDER",
        type=Path,
        nargs="+",
        default=[],
        help="audio to judge by, a row of the table for each; default: a twentieth of the data, whole files",
    )
    budget = command.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help=f"of training, after encoding; default: {_MINUTES:g}")
    budget.add_argument("--steps", type=int, help="of training instead; on a CPU it can be repeated to the bit")
    command.add_argument("--seed", type=int, default=0, help="of weights, draws and what is held out (%(default)d)")
    command.add_argument("--output", metavar="FILE", type=Path, help=f"default: {ENTROPY_NAME} beside the model")
    add_model_options(command)
    command.set_defaults(run=_train_entropy)


def _train_entropy(options: argparse.Namespace) -> int:
    # Here, because only this command needs what trains.
    from codec.bitstream.entropy.network import EntropyConfig
    from codec.bitstream.entropy.savings import print_savings, savings
    from codec.bitstream.entropy.training import for_minutes, for_steps, split, train

    minutes = _MINUTES if options.minutes is None else options.minutes
    if not 0 <= minutes < math.inf:
        raise ValueError(f"minutes must be 0 or more, got {minutes:g}")
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"steps must be 1 or more, got {options.steps}")
    output = options.output or model_path(options.checkpoint).with_name(ENTROPY_NAME)
    if not output.parent.is_dir():
        raise ValueError(f"cannot write {output}: there is no folder {output.parent}")
    coder = load(options)
    config = coder.codec.config
    failed: list[ValueError] = []
    with _progress() as progress:
        signals = _codes(coder, options.data, progress, failed)
        groups = {str(folder): _codes(coder, [folder], progress, failed) for folder in options.held_out}
        data = split(signals, options.seed)
        bar, bits = progress.add_task("training", total=1.0), config.bits_per_code

        def report(done: float, loss: float, held_out: float | None) -> None:
            progress.update(bar, completed=done, description=f"training, {loss:.2f} bits a code")
            if held_out is not None:
                progress.console.print(f"{done:4.0%}  codes that are held out take {held_out:.3f} of {bits} bits")

        size = EntropyConfig(config.codebooks, config.codebook_size, math.ceil(_CONTEXT_SECONDS * config.frame_rate_hz))
        books = sorted({config.codebooks_for(kbps) for kbps in config.bandwidths_kbps})
        share_done = for_minutes(minutes) if options.steps is None else for_steps(options.steps)
        network = train(data, size, books, share_done, options.seed, coder.codec.quantizer.embed, report)
        model = EntropyModel.of(network, coder.fingerprint)
        model.save(output)
    print(f"{output}: entropy model {model.fingerprint}, {output.stat().st_size} bytes")
    print_savings(savings(groups or {_ALL: data.held_out}, model, config))
    for error in failed:
        complain(error)
    return 1 if failed else 0


def _codes(
    coder: FileCodec, folders: list[Path], progress: "Progress", failed: list[ValueError]
) -> list[NDArray[np.int64]]:
    """Of every audio file in the folders, all books: [K, F] each."""
    paths = []
    for folder in folders:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
        if not found:
            raise ValueError(f"no audio file in {folder}")
        paths += found
    signals = []
    for path in progress.track(paths, description="encoding"):
        try:
            blocks = list(coder.codes(SoundFileSource(path, str(path)), max(coder.codec.config.bandwidths_kbps)))
        except ValueError as error:
            failed.append(error)
            continue
        if blocks:
            signals.append(np.concatenate([block.numpy() for block in blocks], 1))
    return signals


@contextmanager
def _progress() -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        yield progress
