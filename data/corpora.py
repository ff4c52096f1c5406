"""Where audio comes from: Debian packages, the clips in this repository, or a user's own folders and manifests."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.audio import DataError
from data.manifest import Entry, Manifest, scan_folder
from data.packages import Package, fetch

__all__ = ["Corpus", "clips", "folder", "large", "manifests", "starter"]

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
    # song.ogg is the band without its lead guitar, guitar.ogg that guitar alone: two recordings, used as they are.
    # Their sum is the full mix, but written again it would be coded twice.
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
    # Greek, Slovenian and Walloon: languages, so voices, that no training package has.
    Package(
        "ktuberling-data",
        "4:22.12.3-1",
        "fba44c875bfa31ea488dadd9263e87a4dcaea0bd47d28817f6c0dc6d2af970ed",
        "speech",
        "GPL-2+",
        tuple(f"*/sounds/{language}/*.{suffix}" for language in ("el", "sl", "wa") for suffix in ("ogg", "wav")),
    ),
    # Another band. Its guitar stems rest for minutes, so only the backing tracks are evaluated.
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
    # Words and phrases in five voices. Left out: Spanish (clipped), Catalan (nothing above 9 kHz), Greek (held out).
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
    # Coded with Opus already, nothing above 20 kHz: volume to train on, no reference to measure with.
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
    """What a run trains and is evaluated on."""

    name: str  # the one that was got: "clips" where "starter" could not be had
    train: Manifest
    held_out: Manifest
    source_weights: Mapping[str, float] | None  # share of the draws by source; None for the share of the duration


def clips(source_weights: Mapping[str, float] | None = None) -> Corpus:
    """The few minutes of speech, music and instruments in `data/clips`; licences in LICENSES.md there.

    Args:
        source_weights: of speech, music and effects.
    """
    train, held_out = Manifest.load(CLIPS / "train.jsonl"), Manifest.load(CLIPS / "held_out.jsonl")
    return Corpus("clips", train, held_out, source_weights)


def starter(root: str, minimum_sample_rate: int = 22050, source_weights: Mapping[str, float] | None = None) -> Corpus:
    """Speech, music and effects from six Debian packages (205 MB), fetched at the first call.

    Where they cannot be had, a warning says so in one line and the embedded clips stand in.

    Args:
        root: folder for the audio and its manifests.
        minimum_sample_rate: Hz; files below it are not used.
        source_weights: of speech, music and effects.
    """
    return _packaged("starter", _TRAIN, root, minimum_sample_rate, source_weights)


def large(root: str, minimum_sample_rate: int = 22050, source_weights: Mapping[str, float] | None = None) -> Corpus:
    """The starter corpus and seven more hours of speech and music (500 MB in all); see `starter`."""
    return _packaged("large", _TRAIN + _LARGE, root, minimum_sample_rate, source_weights)


def folder(
    root: str,
    held_out_fraction: float = 0.02,
    minimum_seconds: float = 0.1,
    minimum_sample_rate: int = 8000,
    source_weights: Mapping[str, float] | None = None,
) -> Corpus:
    """A folder of audio of any kind, or a manifest of it, with some of its files held out.

    A file is held out if the hash of its path says so, whatever other files there are; of every source with two files
    or more at least one is held out and one kept. One file alone cannot be divided: give `manifests` two folders.

    Args:
        root: folder, or a manifest that ends in .jsonl.
        held_out_fraction: expected share of the files, above 0 and below 1.
        minimum_seconds: shorter files are set aside.
        minimum_sample_rate: Hz; files below it are set aside.
        source_weights: by the names of the folders directly below `root`, which become the sources; None for one.

    Raises:
        DataError: nothing usable, nothing to hold out, or sources and weights do not match.
    """
    if not 0 < held_out_fraction < 1:
        raise DataError(f"wanted a held_out_fraction between 0 and 1, got {held_out_fraction}")
    found = _load(root, minimum_seconds, minimum_sample_rate, by_subfolder=source_weights is not None)
    held = _held_out_paths(found, held_out_fraction)
    if not held:
        raise DataError(f"{root}: wanted at least two files of a source to hold one out, found {len(found.entries)}")
    train = found.where(lambda entry: entry.path not in held)
    held_out = Manifest(found.root, [entry for entry in found.entries if entry.path in held])
    return Corpus("folder", train, held_out, source_weights)


def manifests(
    train: str,
    held_out: str,
    minimum_seconds: float = 0.1,
    minimum_sample_rate: int = 8000,
    source_weights: Mapping[str, float] | None = None,
) -> Corpus:
    """Training and held-out audio given apart, each as a manifest (.jsonl) or a folder; see `folder`."""
    by_subfolder = source_weights is not None
    return Corpus(
        "manifests",
        _load(train, minimum_seconds, minimum_sample_rate, by_subfolder),
        _load(held_out, minimum_seconds, minimum_sample_rate, by_subfolder),
        source_weights,
    )


def _load(path: str, minimum_seconds: float, minimum_sample_rate: int, by_subfolder: bool) -> Manifest:
    path = os.path.expanduser(path)  # no shell expands the ~ of data.root=~/audio
    if path.endswith(".jsonl"):
        return Manifest.load(path)

    def source_of(name: str) -> str:
        return name.split(os.sep)[0] if by_subfolder and os.sep in name else "audio"

    return scan_folder(path, minimum_seconds, minimum_sample_rate, source_of)


def _place(path: str) -> float:
    """A number in [0, 1) that depends on the path alone."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=6).digest()) / 2**48


def _held_out_paths(manifest: Manifest, share: float) -> set[str]:
    held: set[str] = set()
    for source in manifest.sources:
        ranked = sorted((entry.path for entry in manifest.entries if entry.source == source), key=_place)
        count = sum(_place(path) < share for path in ranked)
        held.update(ranked[: min(max(count, 1), len(ranked) - 1)])
    return held


def _packaged(
    name: str,
    train: Sequence[Package],
    root: str,
    minimum_sample_rate: int,
    source_weights: Mapping[str, float] | None,
) -> Corpus:
    try:
        parts = [
            _package_manifest(Path(root), f"{name}-{part}.jsonl", packages, minimum_sample_rate)
            for part, packages in (("train", train), ("held-out", _HELD_OUT))
        ]
    except DataError as error:
        log.warning("data=%s cannot be had (%s): training on the embedded clips instead", name, error)
        return clips(source_weights)
    lost = {package.source for package in train} - set(parts[0].sources)
    if source_weights is not None:
        source_weights = {source: weight for source, weight in source_weights.items() if source not in lost}
    return Corpus(name, parts[0], parts[1], source_weights)


def _package_manifest(root: Path, file: str, packages: Sequence[Package], minimum_sample_rate: int) -> Manifest:
    """The manifest that an earlier call wrote if its audio is still there, else a new one."""
    place = root / file
    if place.exists():
        manifest = Manifest.load(place)
        if all((root / package).is_dir() for package in {entry.package for entry in manifest.entries}):
            return _usable(manifest, minimum_sample_rate)
    manifest = Manifest(root, [])
    for package in fetch(packages, root):
        found = scan_folder(root / package.name, minimum_seconds=0.5)
        manifest.entries.extend(_labelled(entry, package) for entry in found.entries)
        manifest.skipped_files.extend(
            (os.path.join(package.name, path), reason) for path, reason in found.skipped_files
        )
    if not manifest.entries:
        raise DataError("none of its packages could be fetched")
    manifest.entries.sort(key=lambda entry: entry.path)
    manifest.save(place)
    return _usable(manifest, minimum_sample_rate)


def _labelled(entry: Entry, package: Package) -> Entry:
    path = os.path.join(package.name, entry.path)
    return replace(entry, path=path, source=package.source, package=package.name, licence=package.licence)


def _usable(manifest: Manifest, minimum_sample_rate: int) -> Manifest:
    usable = manifest.where(lambda entry: entry.sample_rate >= minimum_sample_rate)
    if not usable.entries:
        raise DataError(f"none of its files reaches {minimum_sample_rate} Hz")
    return usable
