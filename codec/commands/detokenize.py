"""`codec detokenize`."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from codec.audio import readable
from codec.commands.model_options import add_model_options, load_codec, model_path, read_model
from codec.commands.token_progress import FileProgress, add_jobs_option, number_of_jobs
from codec.network.conv import fold_weight_norm
from codec.tokens import Card, Failure, TokensError, detokenize
from codec.tokens.detokenize import Job, Result, write_decoded
from codec.tokens.read import read_card
from codec.tokens.shards import check_format

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    command = commands.add_parser(
        "detokenize",
        help="shards of codes back to audio",
        description="Decodes a folder that codec tokenize has made to .wav files, in the subfolders that its manifest "
        "names. Each file has exactly the length of the audio that was encoded.",
    )
    command.add_argument("source", metavar="IN", type=Path, help="folder of shards")
    command.add_argument("target", metavar="OUT", type=Path, help="folder for the audio")
    command.add_argument("-f", "--force", action="store_true", help="replace files that exist")
    add_jobs_option(command)
    add_model_options(command)
    command.set_defaults(run=_detokenize)


def _detokenize(options: argparse.Namespace) -> int:
    card = read_card(options.source)
    check_format(card.format)
    prepared = load_codec(options)
    if prepared.fingerprint != card.model:
        raise TokensError(
            f"{readable(options.source)} was made with the model {card.model}, got {prepared.fingerprint}"
        )
    on_cpu = next(prepared.codec.parameters()).device.type == "cpu"
    jobs = number_of_jobs(options, card.files) if on_cpu else 1
    make = (
        (lambda: partial(write_decoded, prepared.codec, card))
        if jobs == 1
        else partial(_load_decoder, model_path(options.checkpoint), card)
    )
    progress, clipped = FileProgress(readable(options.source.name), card.files), 0
    with progress.shown():
        for name, result in detokenize(options.source, options.target, make, jobs, options.force):
            if isinstance(result, Failure):
                progress.fail(name, result.reason)
            else:
                progress.add(result.seconds)
                clipped += result.clipped > 0
    print(f"{progress.files} of {card.files} files in {readable(options.target)} ({progress.speed()})")
    if clipped:
        print(f"note: {clipped} files have samples that were clipped to full scale", file=sys.stderr)
    return 1 if progress.failed else 0


def _load_decoder(path: Path, card: Card) -> Callable[[Job], Result]:
    """Makes the decoder of a process of its own."""
    codec = read_model(path)
    fold_weight_norm(codec)
    return partial(write_decoded, codec, card)
