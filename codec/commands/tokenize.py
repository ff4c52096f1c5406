"""`codec tokenize`."""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch

from codec.audio import AUDIO_SUFFIXES, describe_skipped, readable
from codec.coding import PreparedCodec, prepare
from codec.commands.loading import (
    chosen_bitrate,
    load_codec,
)
from codec.commands.messages import print_notes
from codec.commands.token_progress import FileProgress, count, duration, number_of_jobs
from codec.tokens import (
    Card,
    Entry,
    EntryList,
    Failure,
    ShardSize,
    TokenFolder,
    Tokens,
    TokensError,
    encode_tokens,
    folder_entries,
    locked,
    manifest_entries,
    tokenize,
)
from codec.tokens.encode import failure
from codec.tokens.folder import FAILED
from codec.tokens.processes import map_in_order
from codec.tokens.shards import check_format
from codec.tokens.tokenize import Encoder
from codec.tokens.windows import WINDOW, encode_windows

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    check_format(options.format)
    if not 0 < options.batch_seconds < float("inf"):
        raise ValueError(f"--batch-seconds must be above 0, got {options.batch_seconds:g}")
    prepared = load_codec(options)
    config = prepared.codec.config
    kbps = chosen_bitrate(options, config)
    entries = _entries(options.source)
    shard_size = options.shard_size or ShardSize(files=1000)
    card = Card.of_codec(
        config,
        kbps,
        model=prepared.fingerprint,
        beams=options.beams,
        format=options.format,
        shard_size=str(shard_size),
        entries=entries.count,
        digest=entries.digest,
        columns=entries.columns,
        command=_command(options, shard_size),
    )
    if options.verbose:
        codes = f"{card.num_codebooks} codes in each of {config.frame_rate_hz:g} frames per second"
        print(f"{card.kbps:g} kbit/s: {codes}; {options.format} shards of {shard_size}", file=sys.stderr)
    jobs = number_of_jobs(options, entries.count)  # fails before the folder is made
    with locked(options.target):
        folder = TokenFolder(options.target, card, options.force)
        jobs = max(1, min(jobs, entries.count - folder.done))
        return _run(entries, folder, shard_size, _encoder(prepared, options, kbps, jobs), options)


def _run(
    entries: EntryList,
    folder: TokenFolder,
    shard_size: ShardSize,
    encoder: tuple[Encoder, int],
    options: argparse.Namespace,
) -> int:
    progress = FileProgress(readable(options.source.name), entries.count, options.quiet)

    def report(entry: Entry, result: Tokens | Failure) -> None:
        if isinstance(result, Failure):
            progress.fail(entry.name, result.reason)
            return
        progress.add(result.samples / folder.card.sample_rate)
        print_notes(entry.name, result.notes)

    try:
        with progress.shown(folder.done):
            card = tokenize(entries, folder, encoder[0], shard_size, report, window=encoder[1])
    except torch.OutOfMemoryError as error:
        raise ValueError("the memory of the GPU is full: use a smaller --batch-seconds") from error
    except KeyboardInterrupt:
        print(f"finished shards are kept in {readable(options.target)}: the same command resumes", file=sys.stderr)
        raise
    if not options.quiet:
        print(f"{readable(options.target)}: {_totals(card)}{f' ({progress.speed()})' if progress.files else ''}")
    for line in describe_skipped(entries.skipped):
        print(f"note: skipped {line}", file=sys.stderr)
    if card.failed:
        listed = readable(options.target / FAILED)
        print(f"codec: {count(card.failed, 'file')} without codes: see {listed}", file=sys.stderr)
    return 1 if card.failed else 0


def _totals(card: Card) -> str:
    codes = f"{count(card.frames, 'frame')} of {count(card.num_codebooks, 'code')} in {count(card.shards, 'shard')}"
    return f"{count(card.files, 'file')}, {duration(card.seconds)} of audio, {codes}"


def _entries(source: Path) -> EntryList:
    if not source.exists():
        raise ValueError(f"{readable(source)}: expected a folder of audio or a manifest, there is no such file")
    if source.is_dir():
        return folder_entries(source)
    if source.suffix.lower() in AUDIO_SUFFIXES:
        raise ValueError(f"{readable(source)} is an audio file: expected a folder or a manifest")
    return manifest_entries(source)


def _command(options: argparse.Namespace, shard_size: ShardSize) -> str:
    """The settings as a command. It is the same for a run that is resumed with other --jobs or --device."""
    words = ["codec", "tokenize", str(options.source), str(options.target), "--format", options.format]
    if options.bitrate is not None:
        words += ["--bitrate", f"{options.bitrate:g}"]
    words += ["--shard-size", str(shard_size).removesuffix(" files").replace(" ", "")]
    if options.beams > 1:
        words += ["--beams", str(options.beams)]
    if options.model is not None:
        words += ["--model", options.model]
    return shlex.join(words)


def _encoder(prepared: PreparedCodec, options: argparse.Namespace, kbps: float, jobs: int) -> tuple[Encoder, int]:
    """The encoder for the device, and its window."""
    if next(prepared.codec.parameters()).device.type != "cpu":
        windows = partial(encode_windows, prepared)
        return lambda entries: windows(entries, kbps, options.batch_seconds, jobs), WINDOW
    make = (
        (lambda: partial(_encode, prepared, kbps))
        if jobs == 1
        else partial(_load_encoder, options.model, prepared.fingerprint, options.beams, kbps)
    )

    def encode(entries: Iterable[Entry]) -> Iterator[Tokens | Failure]:
        return map_in_order(make, (entry.path for entry in entries), jobs)

    return encode, 1


def _load_encoder(model: str | None, fingerprint: str, beams: int, kbps: float) -> Callable[[Path], Tokens | Failure]:
    """Makes the encoder of a process of its own."""
    prepared = prepare(model)
    if prepared.fingerprint != fingerprint:
        raise TokensError("the model's file was replaced by another during the run: run the command again")
    prepared.codec.quantizer.beams = beams
    return partial(_encode, prepared, kbps)


def _encode(prepared: PreparedCodec, kbps: float, path: Path) -> Tokens | Failure:
    try:
        return encode_tokens(prepared, path, kbps)
    except (ValueError, OSError) as error:
        return failure(error)
