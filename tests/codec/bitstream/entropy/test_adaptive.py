"""The coding `adaptive`: its formulas in fractions, stored bytes, and file sizes."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.bitstream.entropy import adaptive
from codec.bitstream.entropy.adaptive import AdaptiveCoder

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


def test_probabilities_follow_the_documented_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Integers] = []
    monkeypatch.setattr(adaptive, "symbol_counts", lambda weights: seen.append(weights) or np.full(4, (1 << 22) - 1))
    codes = skewed_codes(50, 2, 2)
    AdaptiveCoder(2, 2).encode(codes)
    occurrences = [[1] * 4, [1] * 4]
    contexts: Counter[tuple[int, str, int, int]] = Counter()
    weight = [Fraction(1, 2)] * 2
    for step, got in enumerate(seen):
        frame, k = divmod(step, 2)
        keys = ([(k, "previous frame", int(codes[k, frame - 1]))] if frame else []) + (
            [(k, "previous codebook", int(codes[0, frame]))] if k else []
        )
        overall = [Fraction(n, sum(occurrences[k])) for n in occurrences[k]]
        rows = [[contexts[*key, s] for s in range(4)] for key in keys]
        counted = [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * 4
        in_context = [(c + 64 * p) / (sum(counted) + 64) for c, p in zip(counted, overall, strict=True)]
        mixed = [weight[k] * p + (1 - weight[k]) * q for p, q in zip(overall, in_context, strict=True)]
        # The coder's weights are integers out of 1024.
        np.testing.assert_allclose(got / got.sum(), [float(p) for p in mixed], rtol=1e-2)
        code = int(codes[k, frame])
        share = weight[k] * overall[code] / mixed[code]
        weight[k] = (Fraction(1, 64) + share * Fraction(62, 64)).limit_denominator(1 << 20)
        occurrences[k][code] += 4
        contexts.update([(*key, code) for key in keys])


def test_bytes_equal_the_stored_ones() -> None:
    """They were written on another machine."""
    codes = np.arange(120).reshape(40, 3).T ** 2 % 61 % 32
    coder = AdaptiveCoder(3, 5)
    assert (coder.encode(codes) + coder.encode(codes[:, ::-1])).hex() == (
        "0048c0f3c73bd2dbb7bde243f119a0adc33c01d23320137b0a2f77d505d9dc912714de5a7200db22e79a4c4cd9201a0e5b7b"
        "83f8f051ff8dbb1e160234fa0278a4cfe9c7b5759bd88866d9831f01da56853df35fdac427affb6a45154806f5ab7a800057"
        "be28342958ac49c231c10f765e156124800ccbf7a08638691af7d9bb86562a561649fe8e88c927dc500de29a954cc965"
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
    model = encoder._models[0]
    assert model._counts.sum() == model._count_sum <= adaptive._MAX_COUNT_SUM + 4
    codes = skewed_codes(200, 1, 2)
    np.testing.assert_array_equal(decoder.decode(encoder.encode(codes), 200), codes)
