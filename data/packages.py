"""Free recordings from Debian packages: fetched with apt, checked, and unpacked; nothing is installed.

A .deb is an `ar` archive (8 bytes of magic, 60-byte headers, members padded to even length) with a data.tar in it.
Reading one needs no root. It needs dpkg only if the tar is compressed with zstd.
"""

import fcntl
import hashlib
import io
import logging
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from data.entries import DataError

__all__ = ["Package", "fetch", "unpack"]

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Package:
    """One Debian package and what to keep of it."""

    name: str
    version: str  # that `sha256` belongs to; other releases of Debian have other versions
    sha256: str
    source: str  # speech, music, effects
    licence: str
    patterns: tuple[str, ...]  # paths to unpack in addition to the copyright file; * also matches /


def fetch(packages: Sequence[Package], root: Path) -> list[Package]:
    """Unpacks each package in `root/NAME` unless that exists, and returns the packages that are there.

    A package is unpacked elsewhere and renamed, so its folder is complete or absent. Files of a killed fetch are
    removed by the next one. A package that cannot be fetched is logged and left out. Concurrent processes wait for each
    other.

    Raises:
        DataError: apt is missing, or `root` cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / ".lock"):
            for leftover in root.glob(".incoming-*"):
                shutil.rmtree(leftover)
            missing = [package for package in packages if not (root / package.name).is_dir()]
            if missing:
                _fetch_missing(missing, root)
    except OSError as error:
        raise DataError(f"{root}: cannot be written ({error.strerror or error})") from error
    return [package for package in packages if (root / package.name).is_dir()]


def _fetch_missing(packages: list[Package], root: Path) -> None:
    apt_get = shutil.which("apt-get")
    if apt_get is None:
        raise DataError("there is no apt-get on this machine")
    work = root / f".incoming-{os.getpid()}"
    work.mkdir()
    try:
        apt = _apt_command(apt_get, work)
        log.info("reading the list of Debian packages with apt")
        _run([*apt, "update"], work)
        megabytes = _megabytes(apt, packages, work)
        for number, package in enumerate(packages, 1):
            left = sum(megabytes.get(each.name, 0) for each in packages[number - 1 :])
            size = f", {megabytes[package.name]:.0f} of {left:.0f} MB left" if package.name in megabytes else ""
            log.info("downloading recordings, package %d of %d: %s%s", number, len(packages), package.name, size)
            try:
                _run([*apt, "download", package.name], work)
                deb = next(work.glob(f"{package.name}_*.deb"))
                _verify(package, deb)
                unpack(deb, work / package.name, (*package.patterns, f"*/doc/{package.name}/copyright"))
                (work / package.name).rename(root / package.name)
                deb.unlink()
            except (DataError, StopIteration) as error:
                log.warning("%s is left out: %s", package.name, error or "apt downloaded no file")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _apt_command(apt_get: str, work: Path) -> list[str]:
    """apt with its state below `work`, so that it needs no root and changes nothing else on the machine."""
    (work / "apt/lists/partial").mkdir(parents=True)
    (work / "apt/cache/archives/partial").mkdir(parents=True)
    state = work.resolve() / "apt"
    options = {
        "Dir::State::lists": f"{state}/lists",
        "Dir::Cache": f"{state}/cache",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "root",  # the user _apt cannot write to `work`; no effect without root
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "30",
    }
    return [apt_get, "-qq", *(f"-o{name}={value}" for name, value in options.items())]


def _megabytes(apt: list[str], packages: Sequence[Package], work: Path) -> dict[str, float]:
    """Sizes of the downloads by package; packages that apt does not know are missing."""
    sizes = {}
    for package in packages:
        with suppress(DataError):
            printed = _run([*apt, "--print-uris", "download", package.name], work)
            sizes[package.name] = int(printed.split()[2]) / 1e6  # 'URI' FILE BYTES HASH
    return sizes


def _run(command: list[str], folder: Path) -> str:
    """Runs apt-get and returns its output."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"apt-get {command[-1]} did not finish ({type(error).__name__})") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise DataError(f"apt-get failed ({(errors or [f'status {done.returncode}'])[0]})")
    return done.stdout


def _verify(package: Package, deb: Path) -> None:
    """Compares the checksum if the version is the expected one; apt has checked the file against the signed index."""
    version = unquote(deb.name.split("_")[1])
    if version != package.version:
        log.warning(
            "%s has version %s, expected %s: it is used without a check of its content",
            package.name,
            version,
            package.version,
        )
        return
    with open(deb, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise DataError(f"the checksum of version {version} is {found}, expected {package.sha256}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpack(deb: Path, target: Path, patterns: Sequence[str]) -> int:
    """Extracts the regular files of a .deb whose paths match one of the patterns; returns their number.

    Raises:
        DataError: The file is not a .deb, is corrupt, or holds a path outside `target`.
    """
    try:
        with _data_tar(deb) as archive:
            return sum(_extract(archive, member, target, patterns) for member in archive)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{deb.name} is corrupt ({error})") from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, patterns: Sequence[str]) -> bool:
    path = PurePosixPath(member.name)
    content = archive.extractfile(member) if member.isfile() else None
    if content is None or not any(fnmatch(str(path), pattern) for pattern in patterns):
        return False
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"the archive has a path outside its folder: {member.name}")
    file_path = target / path
    file_path.parent.mkdir(parents=True, exist_ok=True)
    with open(file_path, "wb") as file:
        shutil.copyfileobj(content, file)
    return True


@contextmanager
def _data_tar(deb: Path) -> Iterator[tarfile.TarFile]:
    name, content = next(((name, content) for name, content in _members(deb) if name.startswith("data.tar")), ("", b""))
    if not name:
        raise DataError(f"{deb.name} is not a Debian package")
    if not name.endswith(".zst"):
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            yield archive
        return
    dpkg = shutil.which("dpkg-deb")
    if dpkg is None:
        raise DataError(f"{deb.name} is compressed with zstd, and there is no dpkg-deb to read it")
    plain = subprocess.run([dpkg, "--fsys-tarfile", str(deb)], capture_output=True, check=False).stdout
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        yield archive


def _members(deb: Path) -> Iterator[tuple[str, bytes]]:
    with open(deb, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise DataError(f"{deb.name} is not a Debian package")
        while header := file.read(60):
            if len(header) < 60 or header[58:] != b"`\n":
                raise DataError(f"{deb.name} is corrupt (an ar header is truncated or wrong)")
            size = int(header[48:58])
            content = file.read(size)
            if len(content) < size:
                raise DataError(f"{deb.name} is corrupt (it ends within a member)")
            yield header[:16].decode("ascii", "replace").strip().rstrip("/"), content
            file.seek(size % 2, os.SEEK_CUR)
