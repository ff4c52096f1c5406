"""Where audio comes from: Debian packages, the clips in this repository, or a user's folders and manifests."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Lt

from codec.audio import AUDIO_SUFFIXES, readable
from codec.ranges import Hertz, Name, OptionalSeconds, Weights
from data.entries import DataError, Entry
from data.manifest import Manifest
from data.packages import Package, fetch
from data.scan import scan_folder

__all__ = ["Corpus", "clips", "folder", "large", "load_manifest", "manifests", "starter", "voices"]

log = logging.getLogger(__name__)

CLIPS = Path(__file__).parent / "clips"

_TRAIN = (
    Package(
        "klettres-data",
        "4:22.12.3-1",
        "1186d257a19e84230856baea0b0b1ded8be9195080fcdb2588970b5cd937f5a8",
        "speech",
        "GPL-2+",
        ("*.ogg",),
    ),
    Package(
        "fillets-ng-data-cs",
        "1.0.1-1.1",
        "3ecef99b9456f1c80c9625c6f2418642b52d58e7167a46bad7a412db17991b14",
        "speech",
        "GPL-2",
        ("*.ogg",),
    ),
    # song.ogg has the band without its lead guitar, guitar.ogg has that guitar. They are not mixed: the mix would have
    # to be compressed a second time.
    Package(
        "fretsonfire-songs-sectoid",
        "1.dfsg-3.1",
        "14c1ed3e43c1a6a80eae7698f0469a0825cd1184e441968d62df89ca418aa0b4",
        "music",
        "MIT",
        ("*.ogg",),
    ),
    Package(
        "sonic-pi-samples",
        "3.2.2~repack-8",
        "25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
        "effects",
        "CC0 and MIT",
        ("*/samples/*.flac",),
    ),
)
_HELD_OUT = (
    # Greek, Slovenian and Walloon: no training package has these languages, so it has none of these voices.
    # Single words of about a second, so they are a source of their own.
    Package(
        "ktuberling-data",
        "4:22.12.3-1",
        "fba44c875bfa31ea488dadd9263e87a4dcaea0bd47d28817f6c0dc6d2af970ed",
        "words",
        "GPL-2+",
        tuple(f"*/sounds/{language}/*.{suffix}" for language in ("el", "sl", "wa") for suffix in ("ogg", "wav")),
    ),
    # Another band than in training. Its guitar tracks are silent for minutes, so only the backing tracks are used.
    Package(
        "fretsonfire-songs-muldjord",
        "2.dfsg-2.1",
        "b37adf8b08b46d4182c283e760e4f40622d83674e05803960ea1e11a92600c7b",
        "music",
        "CC-BY-SA-3.0",
        ("*/song.ogg",),
    ),
)
_LARGE = (
    # Words and phrases in five voices. Left out are Spanish (clipped), Catalan (empty above 9 kHz), Greek (held out).
    Package(
        "tuxpaint-stamps-default",
        "2022.06.04-1",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        "speech",
        "GPL-2+",
        tuple(f"*_desc_{language}.ogg" for language in ("ro", "ru", "fr", "bg", "be")),
    ),
    Package(
        "singularity-music",
        "007-2",
        "139ba1e408eeb0a72f1fff3760ca46558b9f81bed97dc8c0efa108c4007f4845",
        "music",
        "CC-BY-SA-3.0",
        ("*.ogg",),
    ),
    # Compressed with Opus and empty above 20 kHz: good enough to train on, but no reference for measurements.
    Package(
        "warzone2100-music",
        "4.3.3-3",
        "d3b2c9f90ea5438d45d4aff18339a03ec808e1affa9dac91f7dad61cb15ee64e",
        "music",
        "GPL-2+",
        ("*.opus",),
    ),
)


@dataclass(frozen=True)
class Corpus:
    """The audio of a run."""

    name: str  # "clips" where "starter" was asked for and could not be fetched
    train: Manifest
    held_out: Manifest
    source_weights: Weights | None  # relative frequency of each source; None weights them by duration


def clips(source_weights: Weights | None = None) -> Corpus:
    """The few minutes of speech, music and effects in `data/clips`; licences are in LICENSES.md there.

    Args:
        source_weights: Of speech, music and effects.
    """
    train, held_out = Manifest.load(CLIPS / "train.jsonl"), Manifest.load(CLIPS / "held_out.jsonl")
    return Corpus("clips", train, held_out, source_weights)


def starter(root: Name, minimum_sample_rate: Hertz = 22050, source_weights: Weights | None = None) -> Corpus:
    """Speech, music and effects from six Debian packages (205 MB), fetched at the first call.

    If they cannot be fetched, it logs a warning and returns `clips`.

    Args:
        root: Folder for the audio and its manifests.
        minimum_sample_rate: In Hz; files with a lower rate are not used.
        source_weights: Of speech, music and effects.
    """
    return _packaged("starter", _TRAIN, root, minimum_sample_rate, source_weights)


def large(root: Name, minimum_sample_rate: Hertz = 22050, source_weights: Weights | None = None) -> Corpus:
    """The starter corpus and seven more hours of speech and music (500 MB in all); see `starter`."""
    return _packaged("large", _TRAIN + _LARGE, root, minimum_sample_rate, source_weights)


def voices(
    root: Name,
    packages_root: Name,
    held_out_speakers: Sequence[str] | None = None,
    minimum_sample_rate: Hertz = 22050,
    source_weights: Weights | None = None,
) -> Corpus:
    """Whole sentences of several speakers beside the packages of `starter`. Some speakers are held out.

    Args:
        root: Folder with one folder for each speaker.
        packages_root: As `root` of `starter`.
        held_out_speakers: Names of their folders. None holds out the last in alphabetical order.
        minimum_sample_rate: In Hz; files with a lower rate are not used.
        source_weights: Of speech, music and effects, and of the speakers together, `speech_voices`.

    Raises:
        DataError: There are fewer than two speakers, a name is not one of them, or none is left to train on.
    """
    found = load_manifest(root, minimum_sample_rate=minimum_sample_rate, by_subfolder=True)
    speakers = sorted({entry.source for entry in found.entries if os.sep in entry.path})
    if len(speakers) < 2:
        raise DataError(f"{readable(root)}: expected a folder for each of at least two speakers, got {len(speakers)}")
    held = speakers[-1:] if held_out_speakers is None else [str(name) for name in held_out_speakers]
    if not held or not set(held) < set(speakers):
        raise DataError(f"expected some of {', '.join(speakers)} as held_out_speakers, but not all, got {held}")
    packages = starter(packages_root, minimum_sample_rate, source_weights)

    def join(manifest: Manifest, names: Sequence[str]) -> Manifest:
        sentences = [
            replace(entry, path=os.path.abspath(found.path(entry)), source="speech_voices")
            for entry in found.entries
            if entry.source in names
        ]
        return replace(manifest, entries=[*manifest.entries, *sentences])

    train = join(packages.train, [name for name in speakers if name not in held])
    return Corpus("voices", train, join(packages.held_out, held), packages.source_weights)


def folder(
    root: Name,
    held_out_fraction: Annotated[float, Gt(0), Lt(1)] = 0.02,
    minimum_seconds: OptionalSeconds = 0.1,
    minimum_sample_rate: Hertz = 8000,
    source_weights: Weights | None = None,
    by_subfolder: bool = False,
) -> Corpus:
    """A folder of audio of any kind, or a manifest of it. Some of its files are held out.

    The hash of a file's path decides whether it is held out, so other files do not matter. A source with two files or
    more has at least one held out and one to train on. A single file cannot be divided; use `manifests` then.

    Args:
        root: Folder, or a manifest: a file of JSON lines. An initial ~ stands for the home folder.
        held_out_fraction: Expected fraction of the files that are held out, above 0 and below 1.
        minimum_seconds: Shorter files are skipped.
        minimum_sample_rate: In Hz; files with a lower rate are skipped.
        source_weights: By the names of the folders directly below `root`, which become the sources. None weights by
            duration.
        by_subfolder: Make sources of those folders also without weights; otherwise all files are one source then.

    Raises:
        DataError: There is no usable audio, or too little to hold a file out.
    """
    if not 0 < held_out_fraction < 1:
        raise DataError(f"expected a held_out_fraction between 0 and 1, got {held_out_fraction}")
    found = load_manifest(root, minimum_seconds, minimum_sample_rate, by_subfolder or source_weights is not None)
    held = _held_out_paths(found, held_out_fraction)
    if not held:
        raise DataError(
            f"{readable(root)}: expected at least two files of a source to hold one out, got {len(found.entries)}"
        )
    train = found.where(lambda entry: entry.path not in held)
    held_out = Manifest(found.root, [entry for entry in found.entries if entry.path in held])
    return Corpus("folder", train, held_out, source_weights)


def manifests(
    train: Name | None,
    held_out: Name,
    minimum_seconds: OptionalSeconds = 0.1,
    minimum_sample_rate: Hertz = 8000,
    source_weights: Weights | None = None,
) -> Corpus:
    """Training and held-out audio given apart, each as a manifest or a folder; see `folder`.

    Args:
        train: None if `data.dataset` is a class that has audio of its own.
        held_out: The audio for validation.
        minimum_seconds, minimum_sample_rate, source_weights: As in `folder`.
    """
    limits = minimum_seconds, minimum_sample_rate, source_weights is not None
    train_manifest = Manifest(Path(), []) if train is None else load_manifest(train, *limits)
    return Corpus("manifests", train_manifest, load_manifest(held_out, *limits), source_weights)


def load_manifest(
    path: str,
    minimum_seconds: OptionalSeconds = 0.1,
    minimum_sample_rate: Hertz = 8000,
    by_subfolder: bool = False,
) -> Manifest:
    """A manifest from its file, or that of a folder.

    Args:
        path: Folder, or a file of JSON lines. An initial ~ stands for the home folder.
        minimum_seconds, minimum_sample_rate: As in `folder`.
        by_subfolder: The folders directly below are sources; otherwise all files are one source.

    Raises:
        DataError: There is no usable audio.
    """
    path = os.path.expanduser(path)  # no shell expands the ~ of data.root=~/audio
    if os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES and os.path.isfile(path):
        raise DataError(f"{readable(path)}: expected a folder of audio or a manifest, this is one audio file")
    if path.endswith(".jsonl") or os.path.isfile(path):
        return Manifest.load(path)

    def source_of(name: str) -> str:
        return name.split(os.sep)[0] if by_subfolder and os.sep in name else "audio"

    return scan_folder(path, minimum_seconds, minimum_sample_rate, source_of)


def _path_hash(path: str) -> float:
    """A number in [0, 1) that depends on the path alone."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=6).digest()) / 2**48


def _held_out_paths(manifest: Manifest, fraction: float) -> set[str]:
    held: set[str] = set()
    for source in manifest.sources:
        ranked = sorted((entry.path for entry in manifest.entries if entry.source == source), key=_path_hash)
        count = sum(_path_hash(path) < fraction for path in ranked)
        held.update(ranked[: min(max(count, 1), len(ranked) - 1)])
    return held


def _packaged(
    name: str,
    train: Sequence[Package],
    root: str,
    minimum_sample_rate: int,
    source_weights: Weights | None,
) -> Corpus:
    try:
        parts = [
            _package_manifest(Path(root).expanduser(), f"{name}-{part}.jsonl", packages, minimum_sample_rate)
            for part, packages in (("train", train), ("held-out", _HELD_OUT))
        ]
    except DataError as error:
        log.warning("data=%s is not available (%s): training on the clips in data/clips instead", name, error)
        return clips(source_weights)
    missing = {package.source for package in train} - set(parts[0].sources)
    if source_weights is not None:
        source_weights = {source: weight for source, weight in source_weights.items() if source not in missing}
    held_out = replace(parts[1], entries=[*_sentences(), *parts[1].entries])
    return Corpus(name, parts[0], held_out, source_weights)


def _sentences() -> list[Entry]:
    """The held-out speech of `clips`: five whole sentences, which scores of speech need."""
    found = Manifest.load(CLIPS / "held_out.jsonl").of_source("speech")
    return [replace(entry, path=found.path(entry)) for entry in found.entries]


def _package_manifest(root: Path, file: str, packages: Sequence[Package], minimum_sample_rate: int) -> Manifest:
    """Loads the manifest of an earlier call if its audio is still there, otherwise fetches and scans the packages."""
    path = root / file
    if path.exists():
        manifest = Manifest.load(path)
        sources = {package.name: package.source for package in packages}
        manifest.entries[:] = [replace(e, source=sources.get(e.package, e.source)) for e in manifest.entries]
        if all((root / package).is_dir() for package in {entry.package for entry in manifest.entries}):
            return _usable(manifest, minimum_sample_rate)
    manifest = Manifest(root, [])
    for package in fetch(packages, root):
        found = scan_folder(root / package.name, minimum_seconds=0.5)
        manifest.entries.extend(_labelled(entry, package) for entry in found.entries)
        manifest.skipped_files.extend((os.path.join(package.name, name), why) for name, why in found.skipped_files)
    if not manifest.entries:
        raise DataError("none of its packages could be fetched")
    manifest.entries.sort(key=lambda entry: entry.path)
    manifest.save(path)
    return _usable(manifest, minimum_sample_rate)


def _labelled(entry: Entry, package: Package) -> Entry:
    path = os.path.join(package.name, entry.path)
    return replace(entry, path=path, source=package.source, package=package.name, licence=package.licence)


def _usable(manifest: Manifest, minimum_sample_rate: int) -> Manifest:
    usable = manifest.where(lambda entry: entry.sample_rate >= minimum_sample_rate)
    if not usable.entries:
        raise DataError(f"none of its files has at least {minimum_sample_rate} Hz")
    return usable
