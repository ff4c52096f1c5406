"""The transformer of `codec.bitstream.entropy.network` in integers, so that every machine computes the same.

Weights have 16 bits; each table has its own binary point (`bits` after it). Activations have 24 bits. After the binary
point, the residual stream has 14 of them, normalized and hidden values 12, queries and keys 10. Weights of queries and
heads are multiplied by log2(e) in advance, because exponentials have the base 2. `codec.bitstream.entropy.integers`
says why no sum of products is rounded.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.entropy.integers import (
    EXPONENT_BITS,
    POWER_BITS,
    clamp,
    integer_sqrt,
    power_of_half,
    product,
    shift_right,
)
from codec.bitstream.entropy.network import EntropyConfig

__all__ = ["Context", "IntegerNetwork", "Table", "norm"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]  # with integer values
_RESIDUAL_BITS = 14
_NORM_BITS = 12
_KEY_BITS = 10
_ATTENTION_BITS = 15
_HEAD_BITS = 22  # of the largest weight of a prediction, `MAX_WEIGHT` of the range coder
_SQRT_BITS = 4  # of the root mean square, beyond those of the residual stream
_MASKED_EXPONENT = 64 << EXPONENT_BITS  # `power_of_half` is 0 there
_CHUNK_FRAMES = 64  # evaluated at once; does not affect results


class Table(NamedTuple):
    """Numbers with a binary point: value = values / 2 ** bits."""

    values: NDArray[np.int16] | NDArray[np.int32]
    bits: int


class IntegerNetwork:
    """The network without state; a `Context` holds the frames so far.

    Args:
        config: Size of the network.
        tables: Named and checked by `codec.bitstream.entropy.model_file`.
    """

    def __init__(self, config: EntropyConfig, tables: dict[str, Table]) -> None:
        self.config = config
        self._tables = tables
        self._floats = {name: table.values.astype(np.float64) for name, table in tables.items()
                        if table.values.dtype == np.int16 and name not in ("past", "present", "codebook")}  # fmt: skip

    def row(self, name: str, *index: Integers | int) -> Integers:
        """Entries of a table, with the binary point of the residual stream.

        Shape: index [N] -> [N, dim].
        """
        table = self._tables[name]
        return shift_right(table.values[index].astype(np.int64), table.bits - _RESIDUAL_BITS)

    def linear(self, x: Integers, name: str, bits: int) -> Integers:
        """A normalized or hidden x times a weight matrix, with `bits` bits after the binary point.

        Shape: x [N, I] -> [N, O].
        """
        shift = _NORM_BITS + self._tables[name].bits - bits
        return clamp(shift_right(product(x, self._floats[name]), shift))

    def perceptron(self, x: Integers, name: str) -> Integers:
        """Shape: x [N, dim] -> [N, dim]."""
        hidden = np.maximum(self.linear(norm(x), f"{name}.up", _NORM_BITS), 0)
        return clamp(x + self.linear(hidden, f"{name}.down", _RESIDUAL_BITS))

    def weights(self, hidden: Integers, earlier: Integers, codebook: int) -> Integers:
        """Unnormalized probabilities of the codes of a codebook; the largest is 2^22.

        Shape: hidden [N, dim], earlier [N, dim] (sum of `present` over the earlier codebooks) -> [N, size].
        """
        u = self.perceptron(clamp(hidden + self.row("codebook", codebook) + earlier), "mlp")
        head = self._tables["head"]
        shift = _NORM_BITS + head.bits - EXPONENT_BITS
        logits = shift_right(product(norm(u), self._floats["head"][codebook]), shift)
        logits += self._tables["bias"].values[codebook]
        return power_of_half(logits.max(-1, keepdims=True) - logits) >> POWER_BITS - _HEAD_BITS

    def attention(self, layer: int, q: Integers, k: Floats, v: Floats) -> Integers:
        """Attention of the newest F of T frames to all of them.

        Shape: q [H, F, d], k, v [H, T, d] -> [F, H * d].
        """
        frames, total = q.shape[1], k.shape[1]
        distance = np.arange(total - frames, total)[:, None] - np.arange(total)
        visible = (distance >= 0) & (distance < self.config.context_frames)
        bias = self._tables[f"layers.{layer}.distance"].values[:, np.where(visible, distance, 0)]
        scores = shift_right(product(q, k.transpose(0, 2, 1)), 2 * _KEY_BITS - EXPONENT_BITS) + bias
        best = np.where(visible, scores, np.iinfo(np.int64).min // 2).max(-1, keepdims=True)
        powers = power_of_half(np.where(visible, best - scores, _MASKED_EXPONENT))
        power_sum = powers.sum(-1, keepdims=True)
        attention = ((powers << _ATTENTION_BITS) + power_sum // 2) // power_sum
        mixed = shift_right(product(attention, v), _ATTENTION_BITS)
        return mixed.transpose(1, 0, 2).reshape(frames, -1)


class Context:
    """Keys and values of the frames since the last random access point.

    Args:
        network: Makes the predictions.
        num_codebooks: Codes per frame, at most those of the network.
    """

    def __init__(self, network: IntegerNetwork, num_codebooks: int) -> None:
        self.network = network
        self.num_codebooks = num_codebooks
        self.reset()

    def reset(self) -> None:
        """Forgets all frames."""
        config = self.network.config
        empty = np.zeros((config.heads, 0, config.dim // config.heads))
        self._keys: list[Floats] = [empty] * config.layers
        self._values: list[Floats] = [empty] * config.layers
        self._input = np.zeros((1, config.dim), np.int64)

    def predict_all(self, codes: Integers) -> Iterator[tuple[slice, Integers]]:
        """Predicts all codes of known frames and appends these frames, a chunk of frames at a time.

        Shape: codes [k, F] -> slices of frames, each with weights [f, k, size].
        """
        network = self.network
        for start in range(0, codes.shape[1], _CHUNK_FRAMES):
            chunk = slice(start, min(start + _CHUNK_FRAMES, codes.shape[1]))
            inputs = self._embed(codes[:, chunk])
            hidden = self._advance(np.concatenate([self._input, inputs[:-1]]))
            self._input = inputs[-1:]
            earlier, weights = np.zeros_like(hidden), []
            for codebook, row in enumerate(codes[:, chunk]):
                weights.append(network.weights(hidden, earlier, codebook))
                earlier = earlier + network.row("present", codebook, row)
            yield chunk, np.stack(weights, 1)

    def next_hidden(self) -> Integers:
        """The hidden state of the next frame, for `IntegerNetwork.weights`.

        Shape: -> [1, dim].
        """
        return self._advance(self._input)

    def append(self, frame: Integers) -> None:
        """Appends the frame whose hidden state `next_hidden` returned.

        Shape: frame [k].
        """
        self._input = self._embed(frame[:, None])

    def _embed(self, codes: Integers) -> Integers:
        rows = (self.network.row("past", codebook, row) for codebook, row in enumerate(codes))
        return clamp(sum(rows, np.zeros((codes.shape[1], self.network.config.dim), np.int64)))

    def _advance(self, x: Integers) -> Integers:
        """Shape: x [F, dim] -> [F, dim]."""
        network, config = self.network, self.network.config
        kept = config.context_frames - 1
        for i in range(config.layers):
            y = norm(x)
            q, k, v = (
                network.linear(y, f"layers.{i}.{name}", bits).reshape(len(x), config.heads, -1).transpose(1, 0, 2)
                for name, bits in (("query", _KEY_BITS), ("key", _KEY_BITS), ("value", _NORM_BITS))
            )
            keys = np.concatenate([self._keys[i], k.astype(np.float64)], 1)
            values = np.concatenate([self._values[i], v.astype(np.float64)], 1)
            mixed = network.attention(i, q, keys, values)
            x = clamp(x + network.linear(mixed, f"layers.{i}.out", _RESIDUAL_BITS))
            x = network.perceptron(x, f"layers.{i}.mlp")
            start = max(0, keys.shape[1] - kept)
            self._keys[i], self._values[i] = keys[:, start:], values[:, start:]
        return x


def norm(x: Integers) -> Integers:
    """Divides by the root mean square and rounds to the nearest integer.

    Shape: [N, dim] of the residual stream -> [N, dim] with 12 bits after the binary point.
    """
    mean_square = (x * x).sum(-1, keepdims=True) // x.shape[-1]
    rms = integer_sqrt((mean_square << 2 * _SQRT_BITS) | 1)
    return clamp(((x << _NORM_BITS + _SQRT_BITS) + rms // 2) // rms)
