"""A folder of audio to its manifest."""

import os
from collections.abc import Callable
from pathlib import Path
from sys import intern

from codec.audio import describe_skipped, find_audio, readable
from data.entries import DataError, Entry
from data.headers import FileHeader, read_headers
from data.manifest import Manifest

__all__ = ["scan_folder"]

_MAX_SAMPLE_RATE = 384_000  # Hz; a header with a higher rate is corrupt


def scan_folder(
    root: str | os.PathLike[str],
    minimum_seconds: float = 0.1,
    minimum_sample_rate: int = 8000,
    source_of: Callable[[str], str] = lambda path: "audio",
) -> Manifest:
    """Reads the header of every audio file below a folder.

    Args:
        root: Folder, searched by `codec.audio.find_audio`.
        minimum_seconds: Shorter files are skipped.
        minimum_sample_rate: In Hz; files with a lower rate are skipped.
        source_of: Relative path -> name of the source.

    Raises:
        DataError: There is no such folder, or no usable audio in it.
    """
    root = Path(root)
    if not root.is_dir():
        found = "it is a file" if root.exists() else "there is no such folder"
        raise DataError(f"{readable(root)}: expected a folder of audio, {found}")
    files, skipped = find_audio(root)
    names = [str(path.relative_to(root)) for path in files]
    manifest = Manifest(root, [], [(str(path.relative_to(root)), reason) for path, reason in skipped])
    for name, header in zip(names, read_headers(files), strict=True):
        reason = header if isinstance(header, str) else _reason_to_skip(header, minimum_seconds, minimum_sample_rate)
        if isinstance(header, str) or reason is not None:
            manifest.skipped_files.append((name, str(reason)))
        else:
            manifest.entries.append(Entry(name, *header, source=intern(readable(source_of(name)))))
    manifest.skipped_files.sort()
    if not manifest.entries:
        raise DataError(f"{readable(root)}: {_why_empty(root, manifest.skipped_files)}")
    return manifest


def _reason_to_skip(header: FileHeader, minimum_seconds: float, minimum_sample_rate: int) -> str | None:
    if header.sample_rate < minimum_sample_rate:
        return f"sample rate {header.sample_rate} Hz is below {minimum_sample_rate} Hz"
    if header.sample_rate > _MAX_SAMPLE_RATE:
        return f"sample rate {header.sample_rate} Hz is above {_MAX_SAMPLE_RATE} Hz"
    if header.frames < minimum_seconds * header.sample_rate or header.frames == 0:
        return f"{header.frames} frames, {header.frames / header.sample_rate:.3f} s, is below {minimum_seconds:g} s"
    return None


def _why_empty(root: Path, skipped_files: list[tuple[str, str]]) -> str:
    if not skipped_files and not any(root.iterdir()):
        return "the folder is empty"
    if not skipped_files:
        return "no audio among its files (wav, flac, ogg, opus, mp3, aiff ...)"
    return f"none of its {len(skipped_files)} audio files can be used: {describe_skipped(skipped_files)[0]}"
