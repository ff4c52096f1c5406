"""Where encoded and decoded files may be written: never over a file that the user did not mean to give up."""

import os
from collections.abc import Iterable
from pathlib import Path

from codec.audio import AUDIO_SUFFIXES, readable

__all__ = ["ENCODED_SUFFIX", "check_audio_target", "check_encoded_target", "check_target"]

ENCODED_SUFFIX = ".ecdc"


def check_encoded_target(target: Path) -> None:
    """Refuses names of audio files for encoded files.

    Raises:
        ValueError: The suffix is one of audio.
    """
    if target.suffix.lower() in AUDIO_SUFFIXES:
        raise ValueError(
            f"{readable(target)} is the name of an audio file, but the output is an encoded file: "
            f"name it {readable(target.with_suffix(ENCODED_SUFFIX))}"
        )


def check_audio_target(target: Path) -> None:
    """Refuses names of encoded files for decoded audio.

    Raises:
        ValueError: The suffix is that of encoded files.
    """
    if target.suffix.lower() == ENCODED_SUFFIX:
        raise ValueError(
            f"{readable(target)} is the name of an encoded file, but the output is audio: "
            f"name it {readable(target.with_suffix('.wav'))}"
        )


def check_target(target: Path, sources: Iterable[Path], overwrite: bool) -> None:
    """Refuses to write over an input, also through links, and over any other file unless `overwrite` allows it.

    Devices and pipes are not files in this sense.

    Raises:
        ValueError: The target is one of the sources, is a folder, or exists.
    """
    if not os.path.lexists(target) or (target.exists() and not (target.is_file() or target.is_dir())):
        return
    if target.is_dir():
        raise ValueError(f"cannot write {readable(target)}: it is a folder")
    if not target.exists():  # a link to nothing: writing makes the file that it names
        return
    for source in sources:
        if source.exists() and source.samefile(target):
            raise ValueError(f"input and output are the same file, {readable(target)}: choose another output")
    if not overwrite:
        raise ValueError(f"{readable(target)} exists: use -f (overwrite=True) to replace it, or another output")
