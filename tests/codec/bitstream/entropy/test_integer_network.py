"""The transformer in integers: independent of how it is computed, and close to the one in floating point."""

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.bitstream.entropy import integer_network, integers
from codec.bitstream.entropy.integer_network import Context, norm
from codec.bitstream.entropy.integers import (
    MAX_ACTIVATION,
    MAX_TERMS,
    WEIGHT_BITS,
    integer_sqrt,
    power_of_half,
    product,
    shift_right,
)
from codec.bitstream.entropy.model_file import EntropyModel
from codec.bitstream.entropy.network import EntropyConfig
from codec.bitstream.entropy.transformer import TransformerCoder
from coding_inputs import ROOT
from entropy_inputs import CODEC_FINGERPRINT, SMALL, computed_codes, computed_model, predicted_weights, random_network

Integers = NDArray[np.int64]


def predicted_one_by_one(model: EntropyModel, codes: Integers) -> Integers:
    """Weights as decoding computes them."""
    network = model.network()
    context = Context(network, len(codes))
    frames = []
    for frame in codes.T:
        hidden = context.next_hidden()
        earlier, rows = np.zeros_like(hidden), []
        for k, code in enumerate(frame):
            rows.append(network.weights(hidden, earlier, k)[0])
            earlier = earlier + network.row("present", k, np.array([code]))
        context.append(frame)
        frames.append(np.stack(rows))
    return np.stack(frames)


@pytest.mark.parametrize("num_codebooks", [1, 3])
@pytest.mark.parametrize(
    "model",
    [computed_model(), computed_model(largest=True), EntropyModel.from_network(random_network(), CODEC_FINGERPRINT)],
)
def test_encoding_many_frames_and_decoding_one_by_one_predict_the_same(model: EntropyModel, num_codebooks: int) -> None:
    """Longer than the context of 9 frames and the chunks of 64 frames."""
    codes = computed_codes(num_codebooks, 150)
    whole = predicted_weights(model, codes, [])
    assert len(np.unique(whole)) > 1
    for splits in ([1, 2, 3], [64], [63, 65, 129], list(range(7, 150, 7))):
        np.testing.assert_array_equal(predicted_weights(model, codes, splits), whole)
    np.testing.assert_array_equal(predicted_one_by_one(model, codes), whole)


def test_the_chunk_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = computed_codes(3, 40)
    whole = predicted_weights(computed_model(), codes, [])
    for chunk in (1, 3, 1000):
        monkeypatch.setattr(integer_network, "_CHUNK_FRAMES", chunk)
        np.testing.assert_array_equal(predicted_weights(computed_model(), codes, []), whole)


def with_int64(a: Integers, b: NDArray[np.float64]) -> Integers:
    return a @ b.astype(np.int64)


def with_torch(a: Integers, b: NDArray[np.float64]) -> Integers:
    return (torch.from_numpy(a.astype(np.float64)) @ torch.from_numpy(b.copy())).to(torch.int64).numpy()


def reversed_order(a: Integers, b: NDArray[np.float64]) -> Integers:
    """Adds the terms in reverse order."""
    return (np.ascontiguousarray(a[..., ::-1]).astype(np.float64) @ np.ascontiguousarray(b[..., ::-1, :])).astype(int)


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("multiply", [with_int64, with_torch, reversed_order])
def test_the_matrix_product_implementation_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, multiply: Callable[..., Integers], largest: bool
) -> None:
    model, codes = computed_model(largest=largest), computed_codes(3, 70)
    want = predicted_weights(model, codes, [])
    monkeypatch.setattr(integer_network, "product", multiply)
    for threads in (3, 2, 1) if multiply is with_torch else (1,):
        torch.set_num_threads(threads)
        for enabled in (False, True):
            with torch.backends.mkldnn.flags(enabled=enabled):
                np.testing.assert_array_equal(predicted_weights(model, codes, []), want)


def test_no_sum_of_products_exceeds_the_integers_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of the largest magnitude. The sum of magnitudes bounds every partial sum."""
    largest = []

    def recorded(a: Integers, b: NDArray[np.float64]) -> Integers:
        largest.append(float((np.abs(a).astype(np.float64) @ np.abs(b)).max()))
        return product(a, b)

    monkeypatch.setattr(integer_network, "product", recorded)
    config = EntropyConfig(num_codebooks=2, codebook_size=8, context_frames=5, dim=256, layers=2, heads=4, hidden=2048)
    predicted_weights(computed_model(config, largest=True), computed_codes(2, 12, 8), [])
    assert 2**30 < max(largest) < 2**53


def test_the_bound_holds_for_every_valid_config() -> None:
    weight, terms = 1 << WEIGHT_BITS, MAX_TERMS
    assert (MAX_ACTIVATION + 1) * weight * terms <= 1 << 52  # activation times weight
    assert (MAX_ACTIVATION + 1) ** 2 * 64 <= 1 << 52  # query times key, with at most 64 dimensions of a head
    for name in ("dim", "hidden"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number from 1 to"):
            EntropyConfig(**(SMALL.to_dict() | {name: MAX_TERMS + 1}))
    with pytest.raises(ValueError, match=r"multiple of heads \(2\) and at most 128, got 130"):
        EntropyConfig(**(SMALL.to_dict() | {"dim": 130, "heads": 2}))


PRINT_DIGEST = """
import hashlib
from entropy_inputs import computed_codes, computed_model, predicted_weights
from codec.bitstream.entropy.network import EntropyConfig
config = EntropyConfig(num_codebooks=3, codebook_size=64, context_frames=40, dim=64, layers=2, heads=4, hidden=96)
weights = predicted_weights(computed_model(config), computed_codes(3, 200, 64), [90])
print(hashlib.sha256(weights.astype("<i8").tobytes()).hexdigest())
"""


def test_the_number_of_threads_does_not_matter(capsys: pytest.CaptureFixture[str]) -> None:
    """The digest was computed on another machine. A process of its own has three threads, this one has one."""
    digest = "1932b3dfe7069457d6ed5187fa9099beae6f519de167988e4576f6dc30808786"
    exec(PRINT_DIGEST, {})
    assert capsys.readouterr().out.strip() == digest
    environment = os.environ | {
        "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "3",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest


def test_bytes_equal_the_stored_ones() -> None:
    codes = computed_codes(3, 30)
    coder = TransformerCoder(computed_model().network(), 3)
    digest = hashlib.sha256(coder.encode(codes) + coder.encode(codes[:, ::-1])).hexdigest()
    assert digest == "4cb220859fac54603a271f2b6aa20bbd6b5907d6cd8c9d6dd0684547a97139f3"


@pytest.mark.parametrize("num_codebooks", [1, 2, 3])
def test_codes_round_trip(num_codebooks: int) -> None:
    network = EntropyModel.from_network(random_network(), CODEC_FINGERPRINT).network()
    coder, other = TransformerCoder(network, num_codebooks), TransformerCoder(network, num_codebooks)
    codes = computed_codes(num_codebooks, 100)
    for block in np.split(codes, [1, 30, 95], axis=1):
        np.testing.assert_array_equal(other.decode(coder.encode(block), block.shape[1]), block)
    first = coder.encode(codes)
    coder.reset()
    again = coder.encode(codes)
    other.reset()
    np.testing.assert_array_equal(other.decode(again, 100), codes)
    assert first != again


@pytest.mark.parametrize("seed", range(3))
def test_integers_cost_less_than_a_ten_thousandth_bit_against_floats(seed: int) -> None:
    """Mean Kullback-Leibler divergence in bits, for codes of 4 bits."""
    config = EntropyConfig(num_codebooks=3, codebook_size=16, context_frames=9, dim=32, layers=3, heads=4, hidden=64)
    network = random_network(config, seed)
    codes = computed_codes(3, 60)
    with torch.no_grad():
        hidden = network(torch.from_numpy(codes)[None])[0]
        want = network.logits(hidden, torch.from_numpy(codes.T.copy())).double().log_softmax(-1).numpy()
    weights = predicted_weights(EntropyModel.from_network(network, CODEC_FINGERPRINT), codes, []).astype(np.float64)
    found = np.log(weights / weights.sum(-1, keepdims=True))
    bits = (np.exp(want) * (want - found)).sum(-1).mean() / math.log(2)
    assert 0 <= bits < 1e-4
    assert np.exp(want).max(-1).mean() > 0.2  # the predictions are not uniform


def test_a_frame_affects_the_frames_of_the_context_only() -> None:
    model = computed_model(EntropyConfig(**(SMALL.to_dict() | {"layers": 1})))
    codes = computed_codes(3, 30)
    changed = codes.copy()
    changed[:, 10] = (changed[:, 10] + 1) % 16
    same = (predicted_weights(model, codes, []) == predicted_weights(model, changed, [])).all((1, 2))
    # Frame 10 is the input of frame 11. One layer passes it to 9 frames, itself included. Frame 10 itself changes
    # because of its own earlier codebooks.
    assert not same[10:20].any()
    assert same[:10].all()
    assert same[20:].all()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, (1 << 60) - 1))
def test_square_roots_are_exact(value: int) -> None:
    for x in (value, math.isqrt(value) ** 2, max(0, math.isqrt(value) ** 2 - 1)):
        assert integer_sqrt(np.array([x]))[0] == math.isqrt(x)


def test_square_roots_are_exact_if_the_float_root_is_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.array([0, 1, 2, 3, 4, 99, 100, 101, (1 << 30) ** 2 - 1, (1 << 29) ** 2])
    for error in (-1, 1):
        monkeypatch.setattr(integers.np, "sqrt", lambda x, e=error: np.maximum(0, x**0.5 + e * 0.9))
        np.testing.assert_array_equal(integer_sqrt(values), [math.isqrt(v) for v in values.tolist()])


def test_powers_are_exact() -> None:
    x = np.arange(0, 40 << 10, 7)
    found = power_of_half(x)
    for exponent, value in zip(x.tolist(), found.tolist(), strict=True):
        whole, part = divmod(exponent, 1024)
        # value <= 2^(30 - x / 1024) < value + 2, to the 1024th power. Both the table and the shift round down.
        base = Fraction(2) ** ((30 - whole) * 1024 - part)
        assert Fraction(value) ** 1024 <= base < Fraction(value + 2) ** 1024
    assert found[0] == 1 << 30
    assert (np.diff(found) <= 0).all()
    assert power_of_half(np.array([1 << 50]))[0] == 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(-(1 << 55), 1 << 55), st.integers(-4, 40))
def test_shifting_rounds_to_the_nearest_and_halves_up(x: int, bits: int) -> None:
    assert shift_right(np.array([x]), bits)[0] == math.floor(Fraction(x) / Fraction(2) ** bits + Fraction(1, 2))


@pytest.mark.parametrize(
    "values", [[0] * 16, [1] + [0] * 15, [MAX_ACTIVATION] * 16, [MAX_ACTIVATION] + [0] * 15, [-3, 5] * 8]
)
def test_norms_are_bounded_and_divide_by_the_root_mean_square(values: list[int]) -> None:
    x = np.array([values])
    found = norm(x)
    assert np.abs(found).max() <= MAX_ACTIVATION
    size = math.sqrt(np.mean(np.square(x, dtype=np.float64)))
    if size > 2:
        np.testing.assert_allclose(found / 4096, x / size, rtol=0.03, atol=1e-3)


def test_norms_round_halves_up_on_both_sides_of_zero() -> None:
    """A root mean square of 2^13 gives x / 2 with 12 bits after the point. np.round would round halves to even."""
    x = np.array([[8192] * 62 + [8193, -8193]])
    assert norm(x)[0].tolist() == [4096] * 62 + [4097, -4096]
