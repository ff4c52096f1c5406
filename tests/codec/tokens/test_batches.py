"""Batches of signals of different lengths have the codes of each signal alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from codec import Codec
from codec.tokens.batches import encode_signals, mixes_lengths, shortest_of_batch
from coding_inputs import tiny_codec

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "causal": ("causal", {}),
    "constant padding": ("causal_constant", {}),
    "several residual units": ("causal_no_lstm", {}),
    "not causal, constant padding": ("whole", {}),
    "not causal, reflection": ("whole", {"padding": "reflect"}),
    "odd strides": ("whole", {"strides": (3, 5, 7), "padding": "reflect", "kernel_size": 5}),
}
# In no order; multiples of the hop size, one more, one less, and one sample.
LENGTHS = [5_000, 6_400, 6_399, 6_401, 1, 700, 7_345, 6_400, 5_001, 320, 319, 4_000]


@cache
def double_codec(name: str) -> Codec:
    """In float64 no latent is so near to the middle between two codes that rounding decides, on any machine."""
    kind, changes = KINDS.get(name, (name, {}))
    return tiny_codec(kind, **changes).double()


def signals_of(codec: Codec, lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    channels = codec.config.channels
    return [torch.randn(channels, length, generator=generator, dtype=torch.float64) for length in lengths]


@contextmanager
def batch_sizes(codec: Codec) -> Iterator[list[int]]:
    """A list to which every run of the encoder appends the size of its batch."""
    sizes: list[int] = []
    handle = codec.encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    yield sizes
    handle.remove()


@pytest.mark.parametrize("name", KINDS)
def test_codes_are_those_of_each_signal_alone(name: str) -> None:
    codec = double_codec(name)
    signals = signals_of(codec, LENGTHS)
    alone = [codec.encode_segment(signal[None]) for signal in signals]
    with batch_sizes(codec) as sizes:
        together = encode_signals(codec, signals, None, 10**6)
    assert sum(sizes) == len(LENGTHS)
    assert max(sizes) >= 8
    for one, other in zip(together, alone, strict=True):
        assert one.codes.equal(other.codes)


def test_the_test_can_fail() -> None:
    """Zeros after the signal are not what the network pads it with: they change codes of the last frames."""
    codec = double_codec("causal")
    (signal,) = signals_of(codec, [9_001])
    padded = torch.nn.functional.pad(signal, (0, 7_000))[None]
    alone = codec.encode_segment(signal[None]).codes
    assert not codec.encode_segment(padded).codes[..., : alone.shape[-1]].equal(alone)


def test_segments_with_a_norm_over_time_share_a_batch_only_at_equal_length() -> None:
    codec = double_codec("segments")
    assert not mixes_lengths(codec)
    signals = signals_of(codec, [6_000, 1_000, 6_000, 999, 6_000])
    alone = [codec.encode_segment(signal[None]) for signal in signals]
    with batch_sizes(codec) as sizes:
        together = encode_signals(codec, signals, None, 10**6)
    assert sorted(sizes) == [1, 1, 3]
    for (codes, gain), (codes_alone, gain_alone) in zip(together, alone, strict=True):
        assert codes.equal(codes_alone)
        torch.testing.assert_close(gain.reshape(1), gain_alone)


def test_a_batch_is_limited_with_its_padding() -> None:
    codec = double_codec("causal")
    with batch_sizes(codec) as sizes:
        assert len(encode_signals(codec, signals_of(codec, [4_000] * 5 + [8_000]), None, 8_000)) == 6
    assert sizes == [2, 2, 1, 1]


def test_no_signals() -> None:
    assert encode_signals(double_codec("causal"), [], None, 1) == []


@pytest.mark.parametrize("name", KINDS)
def test_the_shortest_signal_of_a_batch_is_as_short_as_it_can_be(name: str) -> None:
    """It is longer than the padding of every layer, and one sample less is not."""
    codec = double_codec(name)
    shortest = shortest_of_batch(codec)
    signals = signals_of(codec, [shortest, shortest + 1_000])
    alone = codec.encode_segment(signals[0][None]).codes
    with batch_sizes(codec) as sizes:
        assert encode_signals(codec, signals, None, 10**6)[0].codes.equal(alone)
        encode_signals(codec, signals_of(codec, [shortest - 1, shortest + 1_000]), None, 10**6)
    assert sizes == [2, 1, 1]
