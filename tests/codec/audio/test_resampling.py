"""The response of the resampler, measured with tones, and the agreement of its three ways."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codec.audio.resampling import StreamResampler, resample, resampled_length, resampling_filter

# The last two pairs have no useful common divisor, so their weights are interpolated.
RATIOS = [(44_100, 24_000), (48_000, 24_000), (22_050, 24_000), (11_025, 24_000), (8000, 48_000), (192_000, 24_000),
          (96_000, 44_100), (44_101, 24_000), (23_999, 24_000)]  # fmt: skip
DOWN = [(source, target) for source, target in RATIOS if source > target]
UP = [(source, target) for source, target in RATIOS if source < target]


def tone(hertz: float, sample_rate: int, seconds: float = 0.5) -> Tensor:
    time = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    return torch.sin(2 * math.pi * hertz * time).float()[None]


def noise(samples: int, channels: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(channels, samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def middle(audio: Tensor) -> Tensor:
    """Without the tenth at each end, where the filter reaches the silence around the audio."""
    samples = audio[0].double()
    return samples[len(samples) // 10 : -(len(samples) // 10)]


def level_db(audio: Tensor) -> float:
    """Of the middle, relative to a tone of amplitude 1."""
    return 10 * math.log10(2 * float(middle(audio).square().mean()) + 1e-30)


def in_pieces(audio: Tensor, source: int, target: int, sizes: list[int]) -> Tensor:
    resampler = StreamResampler(source, target, len(audio))
    pieces = []
    for size in sizes:
        pieces.append(resampler.push(audio[:, :size]))
        audio = audio[:, size:]
    return torch.cat([*pieces, resampler.push(audio), resampler.flush()], -1)


@pytest.mark.parametrize(("source", "target"), RATIOS)
@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.9, 0.95])
def test_a_tone_in_the_pass_band_keeps_frequency_phase_and_level(source: int, target: int, fraction: float) -> None:
    hertz = fraction * min(source, target) / 2
    audio = resample(tone(hertz, source), source, target)
    error = middle(audio - tone(hertz, target, 0.51)[:, : audio.shape[-1]])
    assert float(error.abs().max()) < 1 - 10 ** (-0.1 / 20)  # 0.1 dB of the amplitude
    assert abs(level_db(audio)) < 0.1


@pytest.mark.parametrize(("source", "target"), DOWN)
@pytest.mark.parametrize("fraction", [1.001, 1.04, 1.3, 1.7])
def test_a_tone_above_the_new_nyquist_frequency_leaves_no_alias(source: int, target: int, fraction: float) -> None:
    hertz = fraction * target / 2
    if hertz >= source / 2:
        pytest.skip("the source has no such frequency")
    assert level_db(resample(tone(hertz, source), source, target)) < -80


@pytest.mark.parametrize(("source", "target"), UP)
@pytest.mark.parametrize("fraction", [0.3, 0.95])
def test_a_tone_leaves_no_image_above_the_old_nyquist_frequency(source: int, target: int, fraction: float) -> None:
    samples = middle(resample(tone(fraction * source / 2, source), source, target))
    spectrum = torch.fft.rfft(samples * torch.kaiser_window(len(samples), False, 14.0, dtype=torch.float64)).abs()
    frequencies = torch.fft.rfftfreq(len(samples), 1 / target)
    images = spectrum[frequencies > 1.01 * source / 2]
    assert len(images) == 0 or 20 * math.log10(float(images.max() / spectrum.max())) < -80


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    source=st.sampled_from([7, 8000, 11_025, 16_000, 22_050, 24_000, 44_100, 44_101, 48_000, 96_000, 192_000]),
    target=st.sampled_from([16_000, 23_999, 24_000, 32_000, 44_100, 48_000]),
    samples=st.integers(0, 6000),
    sizes=st.lists(st.sampled_from([0, 1, 5, 100, 441, 1000]), max_size=8),
    part=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_whole_streamed_and_partial_resampling_agree(
    source: int, target: int, samples: int, sizes: list[int], part: tuple[float, float]
) -> None:
    if source == 7:
        samples //= 1000
    audio = noise(samples, seed=samples)
    whole = resample(audio, source, target)
    length = resampled_length(samples, source, target)
    assert whole.shape == (2, length) == (2, math.ceil(samples * target / source))
    streamed = in_pieces(audio, source, target, sizes)
    assert streamed.shape == whole.shape
    assert torch.equal(streamed, whole)
    start, stop = sorted(round(end * length) for end in part)
    filter_ = resampling_filter(source, target)
    first, last = filter_.input_range(start, stop)
    first, last = min(max(0, first), samples), max(0, min(last, samples))
    partial = filter_(audio[:, first:last], first, start, stop)
    assert torch.equal(partial, whole[:, start:stop])


@pytest.mark.parametrize(("source", "target"), [(44_100, 24_000), (44_101, 24_000), (8000, 24_000)])
def test_the_weights_are_those_of_a_kaiser_windowed_sinc(source: int, target: int) -> None:
    """Against a direct sum in float64 at a few output samples."""
    audio = noise(3000, channels=1)
    out = resample(audio, source, target)
    scale = min(1.0, target / source)
    for n in (0, 1, 700, out.shape[-1] - 1):
        periods = (torch.arange(3000).double() - n * source / target) * scale
        root = (1 - (periods / 100).square()).clamp(min=0).sqrt()
        beta = torch.tensor(0.1102 * (85 - 8.7), dtype=torch.float64)
        window = torch.special.i0(beta * root) / torch.special.i0(beta) * (periods.abs() <= 100)
        expected = float((audio[0].double() * scale * 0.972 * torch.sinc(0.972 * periods) * window).sum())
        # Weights are off by up to 2^-25 through rounding and (pi / 1024)^2 / 8 = 1.2e-6 through interpolation. The sum
        # has 200 / scale terms, of random signs.
        assert float(out[0, n]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("source", "target"), RATIOS)
def test_the_number_of_threads_changes_nothing(source: int, target: int) -> None:
    """Loader workers have one thread, the main process has several."""
    audio = noise(30_000)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(resample(audio, source, target))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_stream_returns_samples_as_soon_as_their_input_is_there() -> None:
    resampler = StreamResampler(48_000, 24_000, 1)
    produced = [resampler.push(torch.zeros(1, 100)).shape[-1] for _ in range(20)]
    assert sum(produced) == pytest.approx(20 * 50 - 100, abs=2)  # the filter reaches 100 output samples ahead
    assert resampler.flush().shape[-1] == 20 * 50 - sum(produced)


@pytest.mark.parametrize(("source", "target"), [(44_101, 24_000), (999_983, 24_000), (1, 24_000), (10_000_000, 16_000)])
def test_memory_does_not_grow_with_the_terms_of_the_ratio(source: int, target: int) -> None:
    filter_ = resampling_filter(source, target)
    assert filter_._weights.numel() <= 2**20  # a full table for 999983 to 24000 Hz would have 200 M weights
    assert resample(torch.zeros(1, 3), source, target).shape == (1, math.ceil(3 * target / source))


def test_equal_rates_change_nothing() -> None:
    audio = noise(100)
    assert resample(audio, 24_000, 24_000) is audio
    assert torch.equal(in_pieces(audio, 24_000, 24_000, [30, 0, 1]), audio)
    assert torch.equal(
        resampling_filter(8000, 8000)(audio[:, 10:], 10, 5, 20), torch.cat([torch.zeros(2, 5), audio[:, 10:20]], 1)
    )


def test_any_number_of_dimensions_and_dtype() -> None:
    audio = noise(300, channels=6).double()
    out = resample(audio.reshape(2, 3, 300), 48_000, 24_000)
    assert (out.shape, out.dtype) == ((2, 3, 150), torch.float64)
    assert torch.equal(out.reshape(6, 150), resample(audio, 48_000, 24_000))
    assert torch.equal(resample(audio[0], 48_000, 24_000), out[0, 0])
    assert resample(torch.zeros(0), 48_000, 24_000).shape == (0,)


def test_constants_keep_their_level() -> None:
    for source, target in RATIOS:
        samples = middle(resample(torch.full((1, source // 2), 0.5), source, target))
        assert float((samples - 0.5).abs().max()) < 0.5e-4  # images of 0 Hz at -80 dB
