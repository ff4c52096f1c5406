"""`codec detokenize`."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from codec.audio import readable
from codec.coding import prepare
from codec.commands.loading import load_codec
from codec.commands.token_progress import FileProgress, count, number_of_jobs
from codec.models import find_model
from codec.tokens import Card, Failure, TokensError, detokenize
from codec.tokens.detokenize import Job, Result, write_decoded
from codec.tokens.read import read_card
from codec.tokens.shards import check_format

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
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
    if options.verbose:
        shards = f"{count(card.shards, 'shard')} of {card.format}: {count(card.files, 'file')}"
        print(f"{shards}, {card.kbps:g} kbit/s, made by: {card.command}", file=sys.stderr)
    if options.target.exists() and not options.target.is_dir():
        raise ValueError(f"OUT must be a folder, {readable(options.target)} is a file")
    options.target.mkdir(parents=True, exist_ok=True)  # fails now rather than once for each file
    make = (
        (lambda: partial(write_decoded, prepared.codec, card))
        if jobs == 1
        else partial(_load_decoder, options.model, card)
    )
    progress, clipped = FileProgress(readable(options.source.name), card.files, options.quiet), 0
    with progress.shown():
        for name, result in detokenize(options.source, options.target, make, jobs, options.force):
            if isinstance(result, Failure):
                progress.fail(name, result.reason)
            else:
                progress.add(result.seconds)
                clipped += result.clipped > 0
    done = f"{progress.files} of {count(card.files, 'file')} in {readable(options.target)}"
    if not options.quiet:
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
