"""The folder that `codec tokenize` writes. A run that was killed is resumed at the first shard that is not finished."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from codec.atomic_file import atomic_write
from codec.audio import Skipped, readable
from codec.folder_lock import FolderInUse
from codec.folder_lock import locked as lock
from codec.tokens.card import Card, TokensError
from codec.tokens.encode import Failure, Tokens
from codec.tokens.entries import Entry
from codec.tokens.shards import ShardWriter, writing_shard

__all__ = ["CARD", "FAILED", "MANIFEST", "Part", "TokenFolder", "locked"]

CARD, MANIFEST, FAILED = "dataset.json", "manifest.jsonl", "failed.jsonl"
_OURS = re.compile(rf"(tokens-\d{{5,}}\.(npz|parquet|jsonl)|{CARD}|{MANIFEST}|{FAILED})(\.partial)?")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Makes a folder if it is missing, and keeps other processes from making tokens in it.

    Raises:
        TokensError: Another process has the lock, or the path is a file.
        OSError: The folder cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise TokensError(f"{readable(path)} is a file: expected a new folder, or one that tokenize has begun")
    path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(lock(path))
        except FolderInUse as error:
            raise TokensError(f"another process writes to {readable(path)}: wait for its end") from error
        yield


class TokenFolder:
    """A folder of tokens that is being made. Use it within `locked`.

    A shard `tokens-00000.npz` is finished when `tokens-00000.jsonl`, the lines of its files, is beside it. At the end
    these lines are joined to the manifest, and `dataset.json` is marked as complete.

    Args:
        path: Of the folder, which exists.
        card: What the folder shall be.
        force: Whether to start again, if the folder was made with other settings or from other files.

    Attributes:
        card: As given; if the folder is complete, with its totals.
        done: Number of entries in finished shards.
        shards: Number of finished parts, some of which may have no shard because none of their files could be read.

    Raises:
        TokensError: The folder has other contents, or was made with other settings.
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, card: Card, force: bool = False) -> None:
        self.path, self.card = path, card
        if not (path / CARD).exists() and any(not _OURS.fullmatch(child.name) for child in path.iterdir()):
            raise TokensError(f"{readable(path)} has other files in it: expected a new or empty folder")
        if force:
            self._clear()
        if (path / CARD).exists():
            self._check(Card.load(path / CARD))
        else:
            self._clear()
            card.save(path / CARD)
        if self.card.complete:
            self.done, self.shards = card.entries, self.card.shards
            self._remove_rest()
        else:
            self._count_done()

    def _check(self, found: Card) -> None:
        difference = found.difference(self.card)
        if difference is not None:
            where = readable(self.path)
            raise TokensError(f"{where} was made with {difference}: choose another folder, or -f to start again")
        if found.complete:
            self.card = found

    def _clear(self) -> None:
        """Removes what an earlier run has made, the card last."""
        for child in sorted(self.path.iterdir(), key=lambda child: child.name == CARD):
            if _OURS.fullmatch(child.name):
                child.unlink()

    def _lines_path(self, number: int) -> Path:
        return self.path / f"tokens-{number:05d}.jsonl"

    def _count_done(self) -> None:
        self.done = self.shards = 0
        while (lines := self._lines_path(self.shards)).exists():
            with lines.open("rb") as file:
                self.done += sum(1 for _ in file)
            self.shards += 1

    @contextmanager
    def writing_part(self) -> Iterator["Part"]:
        """The next shard. It is finished if the block ends without an error."""
        with (
            atomic_write(self._lines_path(self.shards)) as temporary,
            temporary.open("w", encoding="utf-8") as lines,
            ExitStack() as stack,  # its shard gets its name before the lines do
        ):
            yield Part(self.card, f"tokens-{self.shards:05d}.{self.card.format}", lines, stack, self.path)
        self.shards += 1

    def finish(self, skipped: Iterable[Skipped]) -> Card:
        """Writes manifest, list of failed files and totals.

        Args:
            skipped: What the search for files has passed over.

        Returns:
            The card with its totals.
        """
        if self.card.complete:
            return self.card
        card = self.card
        card.files = card.failed = card.shards = card.frames = samples = 0
        with (
            atomic_write(self.path / MANIFEST) as manifest_path,
            atomic_write(self.path / FAILED) as failed_path,
            manifest_path.open("w", encoding="utf-8") as manifest,
            failed_path.open("w", encoding="utf-8") as failed,
        ):
            for path, reason in skipped:
                failed.write(json.dumps({"path": str(path), "reason": reason}) + "\n")
                card.failed += 1
            for number in range(self.shards):
                files_before = card.files
                with self._lines_path(number).open(encoding="utf-8") as lines:
                    for text in lines:
                        line = json.loads(text)
                        if "reason" in line:
                            failed.write(text)
                            card.failed += 1
                        else:
                            manifest.write(text)
                            card.files += 1
                            card.frames += line["frames"]
                            samples += line["samples"]
                card.shards += card.files > files_before
        card.seconds = samples / card.sample_rate
        card.complete = True
        card.save(self.path / CARD)
        self._remove_rest()
        return card

    def _remove_rest(self) -> None:
        """Removes what is not part of a complete folder: the lines of each shard, and files that a kill left."""
        for pattern in ("tokens-*.jsonl", "*.partial"):
            for child in self.path.glob(pattern):
                if _OURS.fullmatch(child.name):
                    child.unlink()


class Part:
    """A shard that is being written, with the lines of its entries.

    Attributes:
        files: Number of files in it.
        bytes: Of their codes.
    """

    def __init__(self, card: Card, name: str, lines: TextIO, stack: ExitStack, folder: Path) -> None:
        self.files = self.bytes = 0
        self._card, self._name, self._lines, self._stack, self._folder = card, name, lines, stack, folder
        self._writer: ShardWriter | None = None  # a shard without files is not written

    def add(self, entry: Entry, result: Tokens | Failure) -> None:
        """Appends the codes of a file, or why it has none."""
        line: dict[str, Any] = {"id": f"{entry.number:08d}", "path": entry.name}
        if isinstance(result, Failure):
            line["reason"] = result.reason
        else:
            card = self._card
            line |= {
                "shard": self._name,
                "seconds": result.samples / card.sample_rate,
                "samples": result.samples,
                "frames": result.codes.shape[1],
                "sample_rate": card.sample_rate,
                "kbps": card.kbps,
                "model": card.model,
            }
            if result.notes:
                line["notes"] = list(result.notes)
        line |= entry.columns
        self._lines.write(json.dumps(line) + "\n")
        if isinstance(result, Tokens):
            if self._writer is None:
                self._writer = self._stack.enter_context(_writing_shard(self._folder / self._name, self._card))
            self._writer.add(line, result)
            self.files += 1
            self.bytes += result.codes.nbytes


@contextmanager
def _writing_shard(path: Path, card: Card) -> Iterator[ShardWriter]:
    with atomic_write(path) as temporary, writing_shard(temporary, card) as writer:
        yield writer
