"""Codes of a data set, for language models: shards with a manifest, and back to audio."""

from codec.tokens.card import Card, TokensError
from codec.tokens.detokenize import detokenize
from codec.tokens.encode import Failure, Tokens, encode_tokens
from codec.tokens.entries import Entry, EntryList, folder_entries, manifest_entries
from codec.tokens.folder import TokenFolder, locked
from codec.tokens.read import StoredTokens, read_tokens
from codec.tokens.tokenize import ShardSize, tokenize

__all__ = [
    "Card",
    "Entry",
    "EntryList",
    "Failure",
    "ShardSize",
    "StoredTokens",
    "TokenFolder",
    "Tokens",
    "TokensError",
    "detokenize",
    "encode_tokens",
    "folder_entries",
    "locked",
    "manifest_entries",
    "read_tokens",
    "tokenize",
]
