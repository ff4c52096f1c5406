"""The coding `adaptive`: its formulas in fractions, stored bytes, and file sizes."""

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.bitstream.entropy import adaptive
from codec.bitstream.entropy.adaptive import AdaptiveCoder, _CodebookModel
from codec.bitstream.entropy.range_coder import PRECISION

Integers = NDArray[np.int64]


def skewed_codes(frames: int, num_codebooks: int, bits: int, seed: int = 0) -> Integers:
    """Few codes are frequent, and codes tend to repeat."""
    rng = np.random.default_rng(seed)
    codes = (rng.random((num_codebooks, frames)) ** 4 * (1 << bits)).astype(np.int64)
    for frame in range(1, frames):
        repeated = rng.random(num_codebooks) < 0.4
        codes[repeated, frame] = codes[repeated, frame - 1]
    return codes


@pytest.mark.parametrize(("num_codebooks", "bits"), [(1, 1), (2, 4), (8, 10), (1, 16)])
def test_consecutive_blocks_round_trip(num_codebooks: int, bits: int) -> None:
    codes = skewed_codes(60, num_codebooks, bits)
    encoder, decoder = AdaptiveCoder(num_codebooks, bits), AdaptiveCoder(num_codebooks, bits)
    for block in np.split(codes, [1, 20, 50], axis=1):
        np.testing.assert_array_equal(decoder.decode(encoder.encode(block), block.shape[1]), block)


def test_reset_forgets_everything() -> None:
    codes = skewed_codes(40, 3, 6)
    coder = AdaptiveCoder(3, 6)
    first = coder.encode(codes)
    assert coder.encode(codes) != first
    coder.reset()
    assert coder.encode(codes) == first


def test_probabilities_follow_the_documented_formulas() -> None:
    codes = skewed_codes(50, 2, 2)
    models = [_CodebookModel(4), _CodebookModel(4)]
    occurrences = [[1] * 4, [1] * 4]
    contexts: Counter[tuple[int, str, int, int]] = Counter()
    weight = [Fraction(1, 2)] * 2
    for frame, k in itertools.product(range(50), range(2)):
        above, code = int(codes[0, frame]) if k else -1, int(codes[k, frame])
        models[k].predict(above)
        intervals = [models[k].interval(s) for s in range(4)]
        keys = ([(k, "previous frame", int(codes[k, frame - 1]))] if frame else []) + (
            [(k, "previous codebook", above)] if k else []
        )
        overall = [Fraction(n, sum(occurrences[k])) for n in occurrences[k]]
        rows = [[contexts[*key, s] for s in range(4)] for key in keys]
        counted = [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * 4
        in_context = [(c + 64 * p) / (sum(counted) + 64) for c, p in zip(counted, overall, strict=True)]
        mixed = [weight[k] * p + (1 - weight[k]) * q for p, q in zip(overall, in_context, strict=True)]
        # 1/256 is divided evenly, and the coder's weights are integers out of 1024.
        expected = [float(255 * p + Fraction(1, 4)) / 256 for p in mixed]
        np.testing.assert_allclose([size / 2**PRECISION for _, size in intervals], expected, rtol=1e-2)
        # The intervals tile the range, and each point belongs to its own.
        assert [start for start, _ in intervals] == [0, *itertools.accumulate(size for _, size in intervals[:-1])]
        assert sum(size for _, size in intervals) == 2**PRECISION
        for s, (start, size) in enumerate(intervals):
            assert models[k].code_at(start) == models[k].code_at(start + size - 1) == s
        models[k].update(code)
        share = weight[k] * overall[code] / mixed[code]
        weight[k] = (Fraction(1, 64) + share * Fraction(62, 64)).limit_denominator(1 << 20)
        occurrences[k][code] += 4
        contexts.update([(*key, code) for key in keys])


def test_bytes_equal_the_stored_ones() -> None:
    """These bytes must never change: encoded files are kept."""
    codes = np.arange(120).reshape(40, 3).T ** 2 % 61 % 32
    coder = AdaptiveCoder(3, 5)
    assert (coder.encode(codes) + coder.encode(codes[:, ::-1])).hex() == (
        "0048c0f3b7b32aaf1d3ab5ae3403b8fbcafd7e11c4cf2e023907308fc6447a1b9814d334a3427bfbec17ef4bb6ea60597a1b"
        "390e0afc7831c3ca73882ba524626ea7c9cb6fd5a16d2453b1b041a56afea6cc6174dac424c10426c562678a1ef7b8f5c91e"
        "d470cfefed73b5e0cd98498fb9f95158ebda3da5204662e52124167bb75bc9956a55891762516961eb6c1010d66376c1"
    )


def test_uniform_codes_cost_at_most_6_percent_and_skewed_ones_save_20() -> None:
    uniform = np.random.default_rng(0).integers(0, 256, (2, 1500))
    assert len(AdaptiveCoder(2, 8).encode(uniform)) < 1.06 * 3000
    assert len(AdaptiveCoder(2, 8).encode(skewed_codes(1500, 2, 8))) < 0.8 * 3000


def test_constant_codes_take_less_than_2_percent() -> None:
    silence = np.full((4, 2000), 7)
    assert len(AdaptiveCoder(4, 10).encode(silence)) < 0.02 * 4 * 2000 * 10 / 8


def test_counts_are_halved_at_their_limit() -> None:
    encoder, decoder = AdaptiveCoder(1, 2), AdaptiveCoder(1, 2)
    for coder in (encoder, decoder):
        coder.encode(np.zeros((1, 20_000), np.int64))
    assert encoder._models[0]._below[-1] <= adaptive._MAX_COUNT_SUM + 4
    codes = skewed_codes(200, 1, 2)
    np.testing.assert_array_equal(decoder.decode(encoder.encode(codes), 200), codes)
