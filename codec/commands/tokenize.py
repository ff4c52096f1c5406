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
from codec.commands.messages import print_notes
from codec.commands.model_options import (
    add_beams_option,
    add_bitrate_option,
    add_model_options,
    chosen_bitrate,
    load_codec,
)
from codec.commands.token_progress import FileProgress, add_jobs_option, count, duration, number_of_jobs
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
from codec.tokens.shards import FORMATS, check_format
from codec.tokens.tokenize import Encoder
from codec.tokens.windows import WINDOW, encode_windows

__all__ = ["add"]

_EXAMPLES = """examples:
  codec tokenize music tokens                  writes tokens/tokens-00000.npz, ... and tokens/manifest.jsonl
  codec tokenize list.jsonl tokens -b 3        the files of a manifest; its text and other keys become columns
  codec tokenize music tokens --format parquet --shard-size 64MiB
  codec detokenize tokens back                 and back to audio
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    command = commands.add_parser(
        "tokenize",
        epilog=_EXAMPLES,
        help="audio of a data set to shards of codes, for language models",
        description="Encodes all audio files of a folder or manifest to shards of codes: one array of whole numbers "
        "[codebooks, frames] per file. manifest.jsonl lists the files, failed.jsonl those that could not be read, and "
        "dataset.json has the settings. A run that was interrupted is resumed by the same command.",
    )
    command.add_argument(
        "source",
        metavar="IN",
        type=Path,
        help="folder of audio, or a manifest: one JSON object per line, with the key path. Further keys, such as text, "
        "become columns",
    )
    command.add_argument("target", metavar="OUT", type=Path, help="folder for the shards")
    add_bitrate_option(command)
    command.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0], help="of the shards. Parquet needs pyarrow. Default: npz"
    )
    command.add_argument(
        "--shard-size",
        metavar="N",
        type=_shard_size,
        default=ShardSize(files=1000),
        help="number of files in a shard, or the size of its codes, such as 64MiB. Default: 1000 files",
    )
    command.add_argument(
        "--batch-seconds",
        metavar="S",
        type=float,
        default=300.0,
        help="audio that a GPU encodes at once; less needs less memory. Default: %(default)g",
    )
    command.add_argument("-f", "--force", action="store_true", help="start again if OUT was made with other settings")
    add_jobs_option(command)
    add_beams_option(command)
    add_model_options(command)
    command.set_defaults(run=_tokenize)


def _shard_size(text: str) -> ShardSize:
    try:
        return ShardSize.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _tokenize(options: argparse.Namespace) -> int:
    check_format(options.format)
    if not 0 < options.batch_seconds < float("inf"):
        raise ValueError(f"--batch-seconds must be above 0, got {options.batch_seconds:g}")
    prepared = load_codec(options)
    config = prepared.codec.config
    kbps = chosen_bitrate(options, config)
    entries = _entries(options.source)
    card = Card.of_codec(
        config,
        kbps,
        model=prepared.fingerprint,
        beams=options.beams,
        format=options.format,
        shard_size=str(options.shard_size),
        entries=entries.count,
        digest=entries.digest,
        columns=entries.columns,
        command=_command(options),
    )
    with locked(options.target):
        folder = TokenFolder(options.target, card, options.force)
        return _run(prepared, entries, folder, kbps, options)


def _run(
    prepared: PreparedCodec, entries: EntryList, folder: TokenFolder, kbps: float, options: argparse.Namespace
) -> int:
    encoder, window = _encoder(prepared, options, kbps, number_of_jobs(options, entries.count - folder.done))
    progress = FileProgress(readable(options.source.name), entries.count)

    def report(entry: Entry, result: Tokens | Failure) -> None:
        if isinstance(result, Failure):
            progress.fail(entry.name, result.reason)
            return
        progress.add(result.samples / folder.card.sample_rate)
        print_notes(entry.name, result.notes)

    try:
        with progress.shown(folder.done):
            card = tokenize(entries, folder, encoder, options.shard_size, report, window)
    except torch.OutOfMemoryError as error:
        raise ValueError("the memory of the GPU is full: use a smaller --batch-seconds") from error
    except KeyboardInterrupt:
        print(f"finished shards are kept in {readable(options.target)}: the same command resumes", file=sys.stderr)
        raise
    speed = f" ({progress.speed()})" if progress.files else ""
    print(
        f"{readable(options.target)}: {count(card.files, 'file')}, {duration(card.seconds)} of audio, "
        f"{count(card.frames, 'frame')} of {count(card.num_codebooks, 'code')} in {count(card.shards, 'shard')}{speed}"
    )
    for line in describe_skipped(entries.skipped):
        print(f"note: skipped {line}", file=sys.stderr)
    if card.failed:
        listed = readable(options.target / FAILED)
        print(f"codec: {count(card.failed, 'file')} without codes: see {listed}", file=sys.stderr)
    return 1 if card.failed else 0


def _entries(source: Path) -> EntryList:
    if not source.exists():
        raise ValueError(f"{readable(source)}: expected a folder of audio or a manifest, there is no such file")
    if source.is_dir():
        return folder_entries(source)
    if source.suffix.lower() in AUDIO_SUFFIXES:
        raise ValueError(f"{readable(source)} is an audio file: expected a folder or a manifest")
    return manifest_entries(source)


def _command(options: argparse.Namespace) -> str:
    """The settings as a command. It is the same for a run that is resumed with other --jobs or --device."""
    words = ["codec", "tokenize", str(options.source), str(options.target), "--format", options.format]
    if options.bitrate is not None:
        words += ["--bitrate", f"{options.bitrate:g}"]
    words += ["--shard-size", str(options.shard_size).removesuffix(" files").replace(" ", "")]
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
