"""The transformer in whole numbers: equal to itself however it is computed, and close to the one in floats."""

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.bitstream.entropy import integer_network, integers
from codec.bitstream.entropy.integer_network import Context, norm
from codec.bitstream.entropy.integers import LIMIT, TERMS_LIMIT, WEIGHT_BITS, power_of_half, product, root, scale_down
from codec.bitstream.entropy.model_file import EntropyModel
from codec.bitstream.entropy.network import EntropyConfig
from codec.bitstream.entropy.transformer_coding import TransformerCoding
from entropy_inputs import CODEC, SMALL, by_rule, codes_of, expected, made_up

Integers = NDArray[np.int64]
ROOT = Path(__file__).resolve().parents[3]


def expected_one_by_one(model: EntropyModel, codes: Integers) -> Integers:
    """As decoding meets them."""
    network = model.network()
    context = Context(network, len(codes))
    frames = []
    for frame in codes.T:
        hidden = context.next_frame()
        below, rows = np.zeros_like(hidden), []
        for book, code in enumerate(frame):
            rows.append(network.weights(hidden, below, book)[0])
            below = below + network.row("present", book, np.array([code]))
        context.see(frame)
        frames.append(np.stack(rows))
    return np.stack(frames)


@pytest.mark.parametrize("books", [1, 3])
@pytest.mark.parametrize("model", [by_rule(), by_rule(largest=True), EntropyModel.of(made_up(), CODEC)])
def test_encoding_many_frames_and_decoding_one_by_one_expect_the_same(model: EntropyModel, books: int) -> None:
    """Across the 9 frames of context and the chunks of 64."""
    codes = codes_of(books, 150)
    whole = expected(model, codes, [])
    assert len(np.unique(whole)) > 1
    for pieces in ([1, 2, 3], [64], [63, 65, 129], list(range(7, 150, 7))):
        np.testing.assert_array_equal(expected(model, codes, pieces), whole)
    np.testing.assert_array_equal(expected_one_by_one(model, codes), whole)


def test_each_chunk_size_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = codes_of(3, 40)
    whole = expected(by_rule(), codes, [])
    for chunk in (1, 3, 1000):
        monkeypatch.setattr(integer_network, "_CHUNK_FRAMES", chunk)
        np.testing.assert_array_equal(expected(by_rule(), codes, []), whole)


def with_int64(a: Integers, b: NDArray[np.float64]) -> Integers:
    return a @ b.astype(np.int64)


def with_torch(a: Integers, b: NDArray[np.float64]) -> Integers:
    return (torch.from_numpy(a.astype(np.float64)) @ torch.from_numpy(b.copy())).to(torch.int64).numpy()


def backwards(a: Integers, b: NDArray[np.float64]) -> Integers:
    """Sums in the opposite order."""
    return (np.ascontiguousarray(a[..., ::-1]).astype(np.float64) @ np.ascontiguousarray(b[..., ::-1, :])).astype(int)


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("multiply", [with_int64, with_torch, backwards])
def test_whatever_multiplies_matrices_the_result_is_the_same(
    monkeypatch: pytest.MonkeyPatch, multiply: Callable[..., Integers], largest: bool
) -> None:
    model, codes = by_rule(largest=largest), codes_of(3, 70)
    want = expected(model, codes, [])
    monkeypatch.setattr(integer_network, "product", multiply)
    for threads in (1, 2, 3) if multiply is with_torch else (2,):
        torch.set_num_threads(threads)
        for enabled in (False, True):
            with torch.backends.mkldnn.flags(enabled=enabled):
                np.testing.assert_array_equal(expected(model, codes, []), want)
    torch.set_num_threads(2)


def test_no_sum_of_products_leaves_what_float64_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of the largest magnitude everywhere: the sum of magnitudes bounds every partial sum."""
    largest = []

    def watched(a: Integers, b: NDArray[np.float64]) -> Integers:
        largest.append(float((np.abs(a).astype(np.float64) @ np.abs(b)).max()))
        return product(a, b)

    monkeypatch.setattr(integer_network, "product", watched)
    config = EntropyConfig(codebooks=2, codebook_size=8, context_frames=5, dim=256, layers=2, heads=4, hidden=2048)
    expected(by_rule(config, largest=True), codes_of(2, 12, 8), [])
    assert 2**30 < max(largest) < 2**53


def test_the_bound_holds_for_every_config_that_is_allowed() -> None:
    weight, terms = 1 << WEIGHT_BITS, TERMS_LIMIT
    assert (LIMIT + 1) * weight * terms <= 1 << 52  # activation times weight
    assert (LIMIT + 1) ** 2 * 64 <= 1 << 52  # query times key, of a head of at most 64
    for name in ("dim", "hidden"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number from 1 to"):
            EntropyConfig(**(SMALL.to_dict() | {name: TERMS_LIMIT + 1}))
    with pytest.raises(ValueError, match="at most 64 times it"):
        EntropyConfig(**(SMALL.to_dict() | {"dim": 130, "heads": 2}))


DIGEST = """
import hashlib
from entropy_inputs import by_rule, codes_of
from entropy_inputs import expected
from codec.bitstream.entropy.network import EntropyConfig
config = EntropyConfig(codebooks=3, codebook_size=64, context_frames=40, dim=64, layers=2, heads=4, hidden=96)
weights = expected(by_rule(config), codes_of(3, 200, 64), [90])
print(hashlib.sha256(weights.astype("<i8").tobytes()).hexdigest())
"""


def test_processes_with_other_threads_expect_the_stored_numbers() -> None:
    """The digest was stored by another process, on another machine than yours."""
    for threads in ("1", "3"):
        environment = os.environ | {
            "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "0a226bafc41810f0ef197180136e30b709742c2adf6b999e6a08e76452b75aa5"


def test_bytes_are_the_stored_ones() -> None:
    codes = codes_of(3, 30)
    coding = TransformerCoding(by_rule().network(), 3)
    digest = hashlib.sha256(coding.encode(codes) + coding.encode(codes[:, ::-1])).hexdigest()
    assert digest == "a8ad792485618234f53a9c4c2a80e50c8abee31238f7f76f4727ecae368193f1"


@pytest.mark.parametrize("books", [1, 2, 3])
def test_codes_round_trip(books: int) -> None:
    network = EntropyModel.of(made_up(), CODEC).network()
    coding, other = TransformerCoding(network, books), TransformerCoding(network, books)
    codes = codes_of(books, 100)
    for block in np.split(codes, [1, 30, 95], axis=1):
        np.testing.assert_array_equal(other.decode(coding.encode(block), block.shape[1]), block)
    first = coding.encode(codes)
    coding.reset()
    again = coding.encode(codes)
    other.reset()
    np.testing.assert_array_equal(other.decode(again, 100), codes)
    assert first != again


@pytest.mark.parametrize("seed", range(3))
def test_whole_numbers_cost_next_to_nothing_against_floats(seed: int) -> None:
    """Mean Kullback-Leibler distance, in bits of a code of four."""
    config = EntropyConfig(codebooks=3, codebook_size=16, context_frames=9, dim=32, layers=3, heads=4, hidden=64)
    network = made_up(config, seed)
    codes = codes_of(3, 60)
    with torch.no_grad():
        hidden = network(torch.from_numpy(codes)[None])[0]
        want = network.logits(hidden, torch.from_numpy(codes.T.copy())).double().log_softmax(-1).numpy()
    weights = expected(EntropyModel.of(network, CODEC), codes, []).astype(np.float64)
    found = np.log(weights / weights.sum(-1, keepdims=True))
    bits = (np.exp(want) * (want - found)).sum(-1).mean() / math.log(2)
    assert 0 <= bits < 1e-4
    assert np.exp(want).max(-1).mean() > 0.2  # it does expect something


def test_context_ends_where_it_should() -> None:
    model = by_rule(EntropyConfig(**(SMALL.to_dict() | {"layers": 1})))
    codes = codes_of(3, 30)
    changed = codes.copy()
    changed[:, 10] = (changed[:, 10] + 1) % 16
    same = (expected(model, codes, []) == expected(model, changed, [])).all((1, 2))
    # Frame 10 is the input of frame 11, which one layer shows to 9 frames, itself included.
    assert not same[10:20].any()
    assert same[:10].all()
    assert same[20:].all()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, (1 << 60) - 1))
def test_roots_are_exact(value: int) -> None:
    for x in (value, math.isqrt(value) ** 2, max(0, math.isqrt(value) ** 2 - 1)):
        assert root(np.array([x]))[0] == math.isqrt(x)


def test_roots_are_exact_where_the_machine_rounds_oddly(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.array([0, 1, 2, 3, 4, 99, 100, 101, (1 << 30) ** 2 - 1, (1 << 29) ** 2])
    for error in (-1, 1):
        monkeypatch.setattr(integers.np, "sqrt", lambda x, e=error: np.maximum(0, x**0.5 + e * 0.9))
        np.testing.assert_array_equal(root(values), [math.isqrt(v) for v in values.tolist()])


def test_powers_are_exact() -> None:
    x = np.arange(0, 40 << 10, 7)
    found = power_of_half(x)
    for exponent, value in zip(x.tolist(), found.tolist(), strict=True):
        whole, part = divmod(exponent, 1024)
        # value <= 2^(30 - x / 1024) < value + 1 or, from the shift of a number rounded down, + 2, to the 1024th power.
        base = Fraction(2) ** ((30 - whole) * 1024 - part)
        assert Fraction(value) ** 1024 <= base < Fraction(value + 2) ** 1024
    assert found[0] == 1 << 30
    assert (np.diff(found) <= 0).all()
    assert power_of_half(np.array([1 << 50]))[0] == 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(-(1 << 55), 1 << 55), st.integers(-4, 40))
def test_scaling_rounds_to_the_nearest_and_halves_up(x: int, bits: int) -> None:
    assert scale_down(np.array([x]), bits)[0] == math.floor(Fraction(x) / Fraction(2) ** bits + Fraction(1, 2))


@pytest.mark.parametrize("values", [[0] * 16, [1] + [0] * 15, [LIMIT] * 16, [LIMIT] + [0] * 15, [-3, 5] * 8])
def test_norms_stay_in_their_bounds_and_follow_the_root_mean_square(values: list[int]) -> None:
    x = np.array([values])
    found = norm(x)
    assert np.abs(found).max() <= LIMIT
    size = math.sqrt(np.mean(np.square(x, dtype=np.float64)))
    if size > 2:
        np.testing.assert_allclose(found / 4096, x / size, rtol=0.03, atol=1e-3)


def test_norms_round_halves_up_on_both_sides_of_zero() -> None:
    """A root mean square of 2^13 gives x / 2 with 12 bits after the point: halves, which floats would round to even."""
    x = np.array([[8192] * 62 + [8193, -8193]])
    assert norm(x)[0].tolist() == [4096] * 62 + [4097, -4096]
