"""`Codec.encode` and `Codec.decode`: audio of any rate to one tensor of codes, and back."""

from typing import Any

import pytest
import torch

from codec.audio import resample
from coding_inputs import tiny_codec

CODEC = tiny_codec("causal", bandwidths_kbps=(0.6, 1.2, 2.4))


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("samples", [1, 24_000, 100_001])
def test_codes_and_audio_equal_those_of_segments(samples: int) -> None:
    audio = noise(2, 1, samples)
    codes = CODEC.encode(audio, 24_000)
    (segment,) = CODEC.encode_segments(audio)
    assert codes.dtype == torch.int64
    assert codes.shape == (2, 8, -(-samples // 320))
    assert torch.equal(codes, segment.codes)
    assert torch.equal(CODEC.decode(codes), CODEC.decode_segments([segment]))
    assert torch.equal(CODEC.decode(codes, samples), CODEC.decode_segments([segment], samples))
    assert CODEC.decode(codes, samples).shape == audio.shape


@pytest.mark.parametrize("sample_rate", [16_000, 44_100, 48_000])
def test_audio_of_another_rate_is_resampled(sample_rate: int) -> None:
    audio = noise(2, 1, sample_rate)
    assert torch.equal(CODEC.encode(audio, sample_rate), CODEC.encode(resample(audio, sample_rate, 24_000), 24_000))


def test_a_bitrate_gives_the_first_codebooks() -> None:
    audio = noise(1, 1, 4800)
    codes = CODEC.encode(audio, 24_000)
    for kbps, count in ((0.6, 2), (1.2, 4)):
        assert torch.equal(CODEC.encode(audio, 24_000, kbps), codes[:, :count])
    assert CODEC.decode(codes[:, :2]).shape == (1, 1, 4800)
    with pytest.raises(ValueError, match="80 codebooks"):
        CODEC.encode(audio, 24_000, 24.0)


def test_other_float_types_are_converted() -> None:
    audio = noise(1, 1, 3200)
    assert torch.equal(CODEC.encode(audio.double(), 24_000), CODEC.encode(audio, 24_000))
    rate: Any = 8000.0  # as in a manifest
    assert torch.equal(CODEC.encode(audio, rate), CODEC.encode(audio, 8000))
    codes = CODEC.encode(audio, 24_000)
    assert torch.equal(CODEC.decode(codes.to(torch.int16)), CODEC.decode(codes))


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (torch.zeros(1, 1, 60, dtype=torch.int16), 24_000, "floats in about .* got torch.int16: divide by full scale"),
        (torch.zeros(1, 1, 60), 0, "sampling rate of the audio in Hz, a whole number, got 0"),
        (torch.zeros(1, 1, 60), 22_050.5, "a whole number, got 22050.5"),
        (torch.tensor([[[0.0, torch.nan]]]), 24_000, "finite numbers, got NaN or infinity"),
        (torch.zeros(1, 2, 60), 24_000, r"expected audio \[B, 1, T\]"),
        (torch.zeros(60), 24_000, r"expected audio \[B, 1, T\]"),
    ],
)
def test_audio_that_would_give_wrong_codes_is_an_error(audio: torch.Tensor, rate: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CODEC.encode(audio, rate)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(8, 5, dtype=torch.int64), r"expected codes \[B, K, F\] of integers with K from 1 to 8 .*\[8, 5\]"),
        (torch.zeros(1, 9, 5, dtype=torch.int64), r"K from 1 to 8 .*\[1, 9, 5\]"),
        (torch.zeros(1, 8, 0, dtype=torch.int64), "F > 0"),
        (torch.zeros(1, 8, 5), "integers .* got torch.float32"),
        (torch.full((1, 8, 5), 16), "codebook 0 has the codes 0 to 15, got 16"),
        (torch.full((1, 8, 5), -1), "codebook 0 has the codes 0 to 15, got -1"),
    ],
)
def test_codes_that_cannot_be_decoded_are_an_error(codes: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CODEC.decode(codes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"normalize": True, "segment_seconds": None}, "stores a gain"),
        ({"normalize": False, "segment_seconds": 0.5}, "codes segments of 0.5 s"),
        ({}, "stores a gain"),
    ],
)
def test_a_codec_whose_codes_are_not_everything_says_what_to_use(changes: dict[str, object], reason: str) -> None:
    codec = tiny_codec("segments", **changes)
    with pytest.raises(ValueError, match=f"{reason}.*use encode_segments"):
        codec.encode(noise(1, 2, 480), 48_000)
    with pytest.raises(ValueError, match=f"{reason}.*use decode_segments"):
        codec.decode(torch.zeros(1, 8, 5, dtype=torch.int64))
