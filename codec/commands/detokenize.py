"""`codec detokenize`."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from codec.audio import readable
from codec.coding import prepare
from codec.commands.model_options import add_model_options, load_codec
from codec.commands.token_progress import FileProgress, add_jobs_option, count, number_of_jobs
from codec.models import find_model
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
    add_model_options(command, "the bundled model, or the one below ./runs, with which the tokens were made")
    command.set_defaults(run=_detokenize)


def _detokenize(options: argparse.Namespace) -> int:
    card = read_card(options.source)
    check_format(card.format)
    if options.model is None:
        options.model = find_model(card.model)
        if options.model is None:
            raise TokensError(
                f"{readable(options.source)} was made with the model {card.model}, which is neither bundled nor in "
                f"./runs: name it with --model"
            )
    prepared = load_codec(options)
    if prepared.fingerprint != card.model:
        raise TokensError(f"{readable(options.source)} was made with the model {card.model}, got {prepared.name}")
    on_cpu = next(prepared.codec.parameters()).device.type == "cpu"
    jobs = number_of_jobs(options, card.files) if on_cpu else 1
    make = (
        (lambda: partial(write_decoded, prepared.codec, card))
        if jobs == 1
        else partial(_load_decoder, options.model, card)
    )
    progress, clipped = FileProgress(readable(options.source.name), card.files), 0
    with progress.shown():
        for name, result in detokenize(options.source, options.target, make, jobs, options.force):
            if isinstance(result, Failure):
                progress.fail(name, result.reason)
            else:
                progress.add(result.seconds)
                clipped += result.clipped > 0
    done = f"{progress.files} of {count(card.files, 'file')} in {readable(options.target)}"
    print(f"{done} ({progress.speed()})" if progress.files else done)
    if clipped:
        print(f"note: {count(clipped, 'file')} with samples that were clipped to full scale", file=sys.stderr)
    return 1 if progress.failed else 0


def _load_decoder(model: str | Path, card: Card) -> Callable[[Job], Result]:
    """Makes the decoder of a process of its own."""
    prepared = prepare(model)
    if prepared.fingerprint != card.model:
        raise TokensError("the model's file was replaced by another during the run: run the command again")
    return partial(write_decoded, prepared.codec, card)
