"""Reads a folder of tokens, in bounded memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from codec.audio import readable
from codec.tokens.card import Card, TokensError
from codec.tokens.folder import CARD, MANIFEST
from codec.tokens.shards import Row, read_shard

__all__ = ["StoredTokens", "read_card", "read_tokens"]


class StoredTokens(NamedTuple):
    """The codes of a file and its line in the manifest."""

    line: dict[str, Any]
    codes: NDArray[Any]  # [K, F]
    gains: NDArray[Any] | None  # [S]


def read_card(folder: Path) -> Card:
    """The description of a complete folder.

    Raises:
        TokensError: This is no folder of tokens, or it is not complete.
        OSError: It cannot be read.
    """
    card = Card.load(folder / CARD)
    if not card.complete:
        raise TokensError(f"{readable(folder)} is not complete: run its command again, which is {card.command}")
    return card


def read_tokens(folder: Path) -> Iterator[StoredTokens]:
    """All files of a folder of tokens, in the order of its manifest.

    Raises:
        TokensError: The folder is not complete, or a file in it is corrupt.
        OSError: A file is missing or cannot be read.
    """
    card = read_card(folder)
    shard = ""
    rows: Iterator[Row] = iter(())
    try:
        with (folder / MANIFEST).open(encoding="utf-8") as manifest:
            for number, text in enumerate(manifest, 1):
                line = _line(text, f"{readable(folder / MANIFEST)}, line {number}")
                if line["shard"] != shard:
                    shard = line["shard"]
                    rows = read_shard(folder / Path(shard).name, card)
                row = next(rows, None)
                if row is None or f"{row.number:08d}" != line["id"]:
                    raise TokensError(f"{shard}: expected the codes of {line['id']}, found {row and row.number}")
                yield StoredTokens(line, row.codes, row.gains)
    except UnicodeDecodeError as error:
        raise TokensError(f"{readable(folder / MANIFEST)}: the manifest is corrupt ({error})") from error


def _line(text: str, where: str) -> dict[str, Any]:
    try:
        line: dict[str, Any] = json.loads(text)
        valid = all(isinstance(line[key], str) for key in ("id", "path", "shard")) and type(line["samples"]) is int
    except (ValueError, TypeError, KeyError) as error:
        raise TokensError(f"{where}: not a line of a manifest of tokens ({error})") from error
    if not valid or line["samples"] < 0:
        raise TokensError(f"{where}: expected texts as id, path and shard, and a number of samples")
    return line
