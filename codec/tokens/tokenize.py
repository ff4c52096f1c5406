"""A list of files to shards of codes."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple, Self

from codec.tokens.card import Card, TokensError
from codec.tokens.encode import Failure, Tokens
from codec.tokens.entries import Entry, EntryList
from codec.tokens.folder import Part, TokenFolder

__all__ = ["Encoder", "ShardSize", "tokenize"]

# Yields the result of each entry, in order. `step` is the number of entries that it treats together.
Encoder = Callable[[Iterable[Entry]], Iterator[Tokens | Failure]]


class ShardSize(NamedTuple):
    """When a shard is full: it has this many files, or codes of at least this many bytes."""

    files: int | None = None
    bytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `1000` (files) or `64MiB`.

        Raises:
            ValueError: The text is neither.
        """
        found = re.fullmatch(r"0*([1-9]\d{0,8}) *(mib)?", text.strip().lower())
        if found is None:
            raise ValueError(f"expected a number of files, such as 1000, or a size, such as 64MiB, got {text!r}")
        number = int(found[1])
        return cls(bytes=number << 20) if found[2] else cls(files=number)

    def __str__(self) -> str:
        return f"{self.files} files" if self.bytes is None else f"{self.bytes >> 20} MiB"

    def is_reached(self, part: Part) -> bool:
        """Whether the shard is full."""
        return part.files == self.files if self.bytes is None else part.bytes >= self.bytes


def tokenize(
    entries: EntryList,
    folder: TokenFolder,
    encoder: Encoder,
    size: ShardSize,
    report: Callable[[Entry, Tokens | Failure], None],
    window: int = 1,
) -> Card:
    """Writes the codes of all entries that are not in finished shards, and finishes the folder.

    Memory does not grow with the number of entries, nor with the size of a shard of .npz.

    Args:
        entries: The files.
        folder: Where to; it says which entries are done.
        encoder: Yields the result of each entry that it is given, in order.
        size: Of a shard.
        report: Called after each file.
        window: Number of entries whose results may depend on each other. A resumed run encodes a whole window again, so
            that it has the results of an uninterrupted one.

    Returns:
        The card of the folder, with its totals.

    Raises:
        TokensError: The encoder returned another number of results.
        OSError: The folder cannot be written.
    """
    if folder.card.complete:
        return folder.card
    done = folder.done
    begin = done - done % window
    results = islice(encoder(islice(entries, begin, None)), done - begin, None)
    try:
        pairs = zip(islice(entries, done, None), results, strict=True)
        while (first := next(pairs, None)) is not None:
            with folder.writing_part() as part:
                for entry, result in chain([first], pairs):
                    part.add(entry, result)
                    report(entry, result)
                    if size.is_reached(part):
                        break
    except ValueError as error:
        if isinstance(error, TokensError):
            raise
        raise TokensError(f"the files could not be encoded: {error}") from error
    return folder.finish(entries.skipped)
