"""`OverlapAdd`: exact joins, and cross-fades without a click (segments of 1 s, overlap of 1 %)."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from codec.streaming.overlap_add import OverlapAdd

RATE, LENGTH, STRIDE = 48_000, 48_000, 47_520


def joined(audio: Tensor, gains: list[float]) -> Tensor:
    """Cuts audio [C, T] into overlapping segments, multiplies each by its gain, and joins them."""
    overlap_add = OverlapAdd(STRIDE)
    starts = range(0, audio.shape[-1], STRIDE)
    segments = [gain * audio[None, :, s : s + LENGTH] for s, gain in zip(starts, gains, strict=True)]
    return torch.cat([*map(overlap_add.push, segments), overlap_add.flush()], -1)[0]


def sine(seconds: float, frequency_hz: float = 1000.0) -> Tensor:
    """[2, T] in float64, so that rounding is far below the measured levels."""
    phase = 2 * math.pi * frequency_hz * torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return torch.stack([phase.sin(), phase.cos()])


def off_sine_level_db(audio: Tensor, center: int, frequency_hz: float = 1000.0) -> float:
    """Energy more than 300 Hz away from a sine, relative to that of the sine, in 43 ms around a sample."""
    window = torch.hann_window(2048, periodic=False, dtype=torch.float64) ** 2  # side lobes below -120 dB
    spectrum = torch.fft.rfft(audio[:, center - 1024 : center + 1024] * window).abs().square().sum(0)
    frequencies = torch.arange(len(spectrum)) * RATE / 2048
    near = (frequencies - frequency_hz).abs() < 300
    return 10 * math.log10(float(spectrum[~near].sum() / spectrum[near].sum()))


def test_unchanged_segments_give_the_original_signal() -> None:
    audio = sine(3.2)
    torch.testing.assert_close(joined(audio, [1.0] * 4), audio, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("gains", "limit_db"), [([0.8, 1.0, 0.9, 1.0], -60), ([1.0, 0.3, 1.0, 0.1], -45)])
def test_a_change_of_gain_between_segments_makes_no_click(gains: list[float], limit_db: float) -> None:
    """Also if a segment is 20 dB too quiet."""
    audio = joined(sine(3.2), gains)
    for join, (before, after) in enumerate(pairwise(gains)):
        middle = (join + 1) * STRIDE + (LENGTH - STRIDE) // 2
        fade = off_sine_level_db(audio, middle)
        assert off_sine_level_db(audio, middle - RATE // 4) < -105
        # The same two levels without a cross-fade, which is a click.
        hard = torch.cat([before * sine(3.2)[:, :middle], after * sine(3.2)[:, middle:]], -1)
        assert fade < off_sine_level_db(hard, middle) - 25
        assert fade < limit_db


def test_the_fade_is_linear_and_as_long_as_the_overlap() -> None:
    audio = joined(torch.ones(1, round(2.5 * RATE), dtype=torch.float64), [1.0, 3.0, 2.0])[0]
    overlap = LENGTH - STRIDE
    assert (audio[:STRIDE] == 1).all()
    torch.testing.assert_close(audio[LENGTH : 2 * STRIDE], torch.full((STRIDE - overlap,), 3.0).double())
    steps = audio[STRIDE : STRIDE + overlap].diff()
    torch.testing.assert_close(steps, torch.full_like(steps, 2 / (overlap + 1)), rtol=2e-3, atol=0)


def test_audio_is_returned_when_no_segment_can_change_it() -> None:
    overlap_add = OverlapAdd(3)
    assert [overlap_add.push(torch.ones(1, 1, 4)).shape[-1] for _ in range(3)] == [0, 3, 3]
    assert overlap_add.flush().shape[-1] == 4


def test_a_segment_longer_than_the_first_is_an_error() -> None:
    overlap_add = OverlapAdd(3)
    overlap_add.push(torch.ones(1, 1, 4))
    with pytest.raises(ValueError, match="at most 4 samples, got 5"):
        overlap_add.push(torch.ones(1, 1, 5))


def test_flush_needs_a_segment() -> None:
    with pytest.raises(ValueError, match="expected at least one segment"):
        OverlapAdd(3).flush()
