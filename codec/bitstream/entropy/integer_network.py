"""The transformer of `codec.bitstream.entropy.network` in whole numbers, so that every machine expects the same codes.

Weights have 16 bits, each table with a binary point of its own (`bits` after it). Activations have 24: the residual
stream 14 of them after the point, normalized and hidden ones 12, queries and keys 10. Weights of queries and heads are
multiplied by log2(e) in advance, as exponentials are taken to the base 2. See
`codec.bitstream.entropy.integers` for why no sum of products is ever rounded.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.entropy.integers import EXPONENT_BITS, clamp, power_of_half, product, root, scale_down
from codec.bitstream.entropy.network import EntropyConfig

__all__ = ["Context", "IntegerNetwork", "Table"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]  # of whole numbers
RESIDUAL_BITS = 14
NORM_BITS = 12
_KEY_BITS = 10
_SHARE_BITS = 15  # of an attention weight
_ROOT_BITS = 4  # more of the root mean square than of the residual stream
_NEVER = 64 << EXPONENT_BITS  # an exponent at which nothing is left
_CHUNK_FRAMES = 64  # evaluated at once, which changes no result


class Table(NamedTuple):
    """Numbers with a binary point: value = values / 2 ** bits."""

    values: NDArray[np.int16] | NDArray[np.int32]
    bits: int


class IntegerNetwork:
    """Weights made ready for use; what was seen so far is in a `Context`.

    Args:
        config: Size of the network.
        tables: As `codec.bitstream.entropy.model_file` names and checks them.
    """

    def __init__(self, config: EntropyConfig, tables: dict[str, Table]) -> None:
        self.config = config
        self._tables = tables
        self._floats = {name: table.values.astype(np.float64) for name, table in tables.items()
                        if table.values.dtype == np.int16 and name not in ("past", "present", "book")}  # fmt: skip

    def row(self, name: str, *index: Integers | int) -> Integers:
        """Entries of a table, with the residual stream's binary point.

        Shape: index [N] -> [N, dim].
        """
        table = self._tables[name]
        return scale_down(table.values[index].astype(np.int64), table.bits - RESIDUAL_BITS)

    def linear(self, x: Integers, name: str, bits: int) -> Integers:
        """A normalized or hidden x times a weight, with so many bits after the point.

        Shape: x [N, I] -> [N, O].
        """
        shift = NORM_BITS + self._tables[name].bits - bits
        return clamp(scale_down(product(x, self._floats[name]), shift))

    def perceptron(self, x: Integers, name: str) -> Integers:
        """Shape: x [N, dim] -> [N, dim]."""
        hidden = np.maximum(self.linear(norm(x), f"{name}.up", NORM_BITS), 0)
        return clamp(x + self.linear(hidden, f"{name}.down", RESIDUAL_BITS))

    def weights(self, hidden: Integers, below: Integers, book: int) -> Integers:
        """Unnormalized probabilities of the codes of a book, the likeliest 2^30.

        Shape: hidden [N, dim], below [N, dim] the sum of `present` over the books below -> [N, size].
        """
        u = self.perceptron(clamp(hidden + self.row("book", book) + below), "mlp")
        head = self._tables["head"]
        shift = NORM_BITS + head.bits - EXPONENT_BITS
        logits = scale_down(product(norm(u), self._floats["head"][book]), shift) + self._tables["bias"].values[book]
        return power_of_half(logits.max(-1, keepdims=True) - logits)

    def attention(self, layer: int, q: Integers, k: Floats, v: Floats) -> Integers:
        """Of the newest F of T frames to all of them.

        Shape: q [H, F, d], k, v [H, T, d] -> [F, H * d].
        """
        frames, total = q.shape[1], k.shape[1]
        distance = np.arange(total - frames, total)[:, None] - np.arange(total)
        seen = (distance >= 0) & (distance < self.config.context_frames)
        bias = self._tables[f"layers.{layer}.distance"].values[:, np.where(seen, distance, 0)]
        scores = scale_down(product(q, k.transpose(0, 2, 1)), 2 * _KEY_BITS - EXPONENT_BITS) + bias
        best = np.where(seen, scores, np.iinfo(np.int64).min // 2).max(-1, keepdims=True)
        powers = power_of_half(np.where(seen, best - scores, _NEVER))
        total_power = powers.sum(-1, keepdims=True)
        shares = ((powers << _SHARE_BITS) + total_power // 2) // total_power
        mixed = scale_down(product(shares, v), _SHARE_BITS)
        return mixed.transpose(1, 0, 2).reshape(frames, -1)


class Context:
    """What a network has seen since the last sync point.

    Args:
        network: Which is to expect.
        books: Codes per frame, at most the network's.
    """

    def __init__(self, network: IntegerNetwork, books: int) -> None:
        self.network = network
        self.books = books
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        config = self.network.config
        empty = np.zeros((config.heads, 0, config.dim // config.heads))
        self._keys: list[Floats] = [empty] * config.layers
        self._values: list[Floats] = [empty] * config.layers
        self._input = np.zeros((1, config.dim), np.int64)

    def expect_all(self, codes: Integers) -> Iterator[tuple[slice, Integers]]:
        """Weights of all codes of known frames, a chunk of frames at a time; the frames count as seen.

        Shape: codes [n, F] -> slices of frames, each with weights [f, n, size].
        """
        network = self.network
        for start in range(0, codes.shape[1], _CHUNK_FRAMES):
            chunk = slice(start, min(start + _CHUNK_FRAMES, codes.shape[1]))
            inputs = self._embed(codes[:, chunk])
            hidden = self._advance(np.concatenate([self._input, inputs[:-1]]))
            self._input = inputs[-1:]
            below, weights = np.zeros_like(hidden), []
            for book, row in enumerate(codes[:, chunk]):
                weights.append(network.weights(hidden, below, book))
                below = below + network.row("present", book, row)
            yield chunk, np.stack(weights, 1)

    def next_frame(self) -> Integers:
        """What is expected of the next frame, for `IntegerNetwork.weights`.

        Shape: -> hidden [1, dim].
        """
        return self._advance(self._input)

    def see(self, frame: Integers) -> None:
        """Takes in the frame that followed.

        Shape: frame [n].
        """
        self._input = self._embed(frame[:, None])

    def _embed(self, codes: Integers) -> Integers:
        rows = (self.network.row("past", book, row) for book, row in enumerate(codes))
        return clamp(sum(rows, np.zeros((codes.shape[1], self.network.config.dim), np.int64)))

    def _advance(self, x: Integers) -> Integers:
        """Shape: x [F, dim] -> [F, dim]."""
        network, config = self.network, self.network.config
        kept = config.context_frames - 1
        for i in range(config.layers):
            y = norm(x)
            q, k, v = (
                network.linear(y, f"layers.{i}.{name}", bits).reshape(len(x), config.heads, -1).transpose(1, 0, 2)
                for name, bits in (("query", _KEY_BITS), ("key", _KEY_BITS), ("value", NORM_BITS))
            )
            keys = np.concatenate([self._keys[i], k.astype(np.float64)], 1)
            values = np.concatenate([self._values[i], v.astype(np.float64)], 1)
            mixed = network.attention(i, q, keys, values)
            x = clamp(x + network.linear(mixed, f"layers.{i}.out", RESIDUAL_BITS))
            x = network.perceptron(x, f"layers.{i}.mlp")
            start = max(0, keys.shape[1] - kept)
            self._keys[i], self._values[i] = keys[:, start:], values[:, start:]
        return x


def norm(x: Integers) -> Integers:
    """Divided by its root mean square, rounded to the nearest.

    Shape: [N, dim] of the residual stream -> [N, dim] with NORM_BITS after the point.
    """
    mean = (x * x).sum(-1, keepdims=True) // x.shape[-1]
    size = root((mean << 2 * _ROOT_BITS) | 1)
    return clamp(((x << NORM_BITS + _ROOT_BITS) + size // 2) // size)
