"""`codec info`."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from codec.audio import AUDIO_SUFFIXES, error_text, find_files, readable
from codec.bitstream import BitstreamReader
from codec.bitstream.byte_source import ByteSource
from codec.bitstream.encodec.header import is_encodec_format
from codec.bitstream.encodec.segments import EncodecReader
from codec.bitstream.layout import MAGIC
from codec.bundled import bundled_models
from codec.coding.targets import ENCODED_SUFFIX
from codec.commands.facts import Facts, of_audio, of_encodec_file, of_encoded_file, of_model
from codec.commands.messages import missing, print_notes, print_table
from codec.commands.standard_streams import STANDARD_STREAM
from codec.model_file import MODEL_NAME
from codec.models import load, model_path

__all__ = ["run"]

_MODEL_SUFFIXES = {".safetensors", ".pt"}  # any other file may be audio


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    paths = [path for given in options.inputs for path in _files(given)]
    failed: list[str] = []
    for number, path in enumerate(paths):
        try:
            facts = _facts(path)
        except (ValueError, OSError) as error:
            text = error_text(error)
            failed.append(text if readable(path) in text else f"{readable(path)}: {text}")
            continue
        if options.json:
            print(json.dumps({"file": readable(path)} | facts.values))
        else:
            heading = {"file": readable(path)} if len(paths) > 1 else {}
            print("\n" * (number > 0), end="")
            print_table(heading | facts.rows)
        print_notes(path, facts.notes)
    for line in failed:
        print(f"codec: {line}", file=sys.stderr)
    return 1 if failed else 0


def _files(path: Path) -> Iterator[Path]:
    """The path itself, or the files of a folder that is not a run."""
    if not path.is_dir() or (path / MODEL_NAME).is_file() or str(path) in bundled_models():
        yield path
        return
    found = find_files(path, AUDIO_SUFFIXES | {ENCODED_SUFFIX}).files
    if not found:
        raise ValueError(f"{readable(path)} is a folder without {MODEL_NAME}, encoded files or audio files")
    yield from found


def _facts(path: Path) -> Facts:
    if path.exists() and not path.is_dir():
        with path.open("rb") as file:
            source, size = ByteSource(file), path.stat().st_size
            start = source.peek(len(MAGIC) + 1)
            if is_encodec_format(start):
                return of_encodec_file(EncodecReader(source, str(path)), size)
            if start.startswith(MAGIC):
                return of_encoded_file(BitstreamReader(source, str(path)), size)
        if path.suffix.lower() not in _MODEL_SUFFIXES:
            return of_audio(path)
    elif path == STANDARD_STREAM:
        raise ValueError("info reads files by name: - is a pipe")
    elif not path.exists() and path.suffix.lower() in AUDIO_SUFFIXES | {ENCODED_SUFFIX}:
        raise ValueError(missing(path))
    path = model_path(path)
    return of_model(load(path), path)
