"""The coding that learns as it goes: against its formulas in fractions, stored bytes, and what it saves."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.bitstream.entropy import adaptive
from codec.bitstream.entropy.adaptive import AdaptiveCoding

Integers = NDArray[np.int64]


def skewed(frames: int, books: int, bits: int, seed: int = 0) -> Integers:
    """Few codes are frequent, and each tends to follow itself."""
    rng = np.random.default_rng(seed)
    codes = (rng.random((books, frames)) ** 4 * (1 << bits)).astype(np.int64)
    for frame in range(1, frames):
        stay = rng.random(books) < 0.4
        codes[stay, frame] = codes[stay, frame - 1]
    return codes


@pytest.mark.parametrize(("books", "bits"), [(1, 1), (2, 4), (8, 10), (1, 16)])
def test_blocks_round_trip_and_continue_each_other(books: int, bits: int) -> None:
    codes = skewed(60, books, bits)
    coding, other = AdaptiveCoding(books, bits), AdaptiveCoding(books, bits)
    for block in np.split(codes, [1, 20, 50], axis=1):
        np.testing.assert_array_equal(other.decode(coding.encode(block), block.shape[1]), block)


def test_after_a_reset_nothing_is_left_of_what_was_learnt() -> None:
    codes = skewed(40, 3, 6)
    coding = AdaptiveCoding(3, 6)
    first = coding.encode(codes)
    assert coding.encode(codes) != first
    coding.reset()
    assert coding.encode(codes) == first


def test_probabilities_are_those_of_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Integers] = []
    monkeypatch.setattr(adaptive, "counts_of", lambda weights: seen.append(weights) or np.full(4, (1 << 22) - 1))
    codes = skewed(50, 2, 2)
    AdaptiveCoding(2, 2).encode(codes)
    occurrences = [[1] * 4, [1] * 4]
    contexts: Counter[tuple[int, str, int, int]] = Counter()
    weight = [Fraction(1, 2)] * 2
    for step, found in enumerate(seen):
        frame, book = divmod(step, 2)
        keys = ([(book, "before", int(codes[book, frame - 1]))] if frame else []) + (
            [(book, "below", int(codes[0, frame]))] if book else []
        )
        often = [Fraction(n, sum(occurrences[book])) for n in occurrences[book]]
        rows = [[contexts[*key, s] for s in range(4)] for key in keys]
        counted = [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * 4
        here = [(c + 64 * p) / (sum(counted) + 64) for c, p in zip(counted, often, strict=True)]
        mixed = [weight[book] * p + (1 - weight[book]) * q for p, q in zip(often, here, strict=True)]
        np.testing.assert_allclose(
            found / found.sum(), [float(p) for p in mixed], rtol=1e-2
        )  # weights are whole 1024ths
        code = int(codes[book, frame])
        share = weight[book] * often[code] / mixed[code]
        weight[book] = Fraction(1, 64) + share * Fraction(62, 64)
        weight[book] = weight[book].limit_denominator(1 << 20)
        occurrences[book][code] += 4
        contexts.update([(*key, code) for key in keys])


def test_bytes_are_the_stored_ones() -> None:
    """On every machine: what this test stores was not written on yours."""
    codes = np.arange(120).reshape(40, 3).T ** 2 % 61 % 32
    coding = AdaptiveCoding(3, 5)
    assert (coding.encode(codes) + coding.encode(codes[:, ::-1])).hex() == (
        "0048c0f3c73bd2dbb7bde243f119a0adc33c01d23320137b0a2f77d505d9dc912714de5a7200db22e79a4c4cd9201a0e5b7b"
        "83f8f051ff8dbb1e160234fa0278a4cfe9c7b5759bd88866d9831f01da56853df35fdac427affb6a45154806f5ab7a800057"
        "be28342958ac49c231c10f765e156124800ccbf7a08638691af7d9bb86562a561649fe8e88c927dc500de29a954cc965"
    )


def test_even_codes_cost_hardly_more_than_their_bits_and_skewed_ones_much_less() -> None:
    even = np.random.default_rng(0).integers(0, 256, (2, 1500))
    assert len(AdaptiveCoding(2, 8).encode(even)) < 1.06 * 3000
    assert len(AdaptiveCoding(2, 8).encode(skewed(1500, 2, 8))) < 0.8 * 3000


def test_silence_takes_next_to_nothing() -> None:
    silence = np.full((4, 2000), 7)
    assert len(AdaptiveCoding(4, 10).encode(silence)) < 0.02 * 4 * 2000 * 10 / 8


def test_counts_stay_bounded_and_old_ones_fade() -> None:
    coding = AdaptiveCoding(1, 2)
    coding.encode(np.zeros((1, 20_000), np.int64))
    book = coding._books[0]
    assert book._n.sum() == book._sum <= adaptive._OCCURRENCES_LIMIT + 4
    again = AdaptiveCoding(1, 2)
    again.encode(np.zeros((1, 20_000), np.int64))
    codes = skewed(200, 1, 2)
    np.testing.assert_array_equal(again.decode(coding.encode(codes), 200), codes)
