"""`SegmentEncoder` and `SegmentDecoder`: equal to encoding and decoding in one call."""

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codec import Codec, EncodedSegment
from codec.coding.segments import SegmentDecoder, SegmentEncoder
from coding_inputs import tiny_codec

SHORT = {
    "sample_rate": 800,
    "strides": (2, 4),
    "segment_seconds": 0.1,
    "num_codebooks": 4,
    "bandwidths_kbps": (0.8, 1.6),
}
KINDS: dict[str, dict[str, Any]] = {
    "1 % overlap": {},
    "half": {"overlap": 0.5},
    "70 % overlap": {"overlap": 0.7, "normalize": False},
    "none": {"overlap": 0.0},
}
CHUNKS = st.lists(st.sampled_from([0, 1, 2, 3, 7, 8, 13, 40, 150]), min_size=0, max_size=12)


@cache
def codec_of(name: str) -> Codec:
    """Made by the first test that needs it, whose random numbers it leaves alone."""
    with torch.random.fork_rng():
        if name == "whole":
            return tiny_codec("whole", **(SHORT | {"segment_seconds": None}))
        return tiny_codec("segments", **SHORT, **KINDS[name])


def encoded_in_chunks(codec: Codec, audio: Tensor, chunks: list[int]) -> list[EncodedSegment]:
    cuts = [0]
    for size in chunks:
        cuts.append(min(cuts[-1] + size, audio.shape[-1]))
    encoder = SegmentEncoder(codec)
    pieces = [audio[..., a:b] for a, b in pairwise([*cuts, audio.shape[-1]])]
    return [segment for piece in pieces for segment in encoder.push(piece)] + encoder.flush()


@pytest.mark.parametrize("name", [*KINDS, "whole"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(samples=st.integers(1, 400), chunks=CHUNKS)
def test_segments_equal_encoding_in_one_call(name: str, samples: int, chunks: list[int]) -> None:
    codec = codec_of(name)
    audio = torch.randn(2, codec.config.channels, samples, generator=torch.Generator().manual_seed(samples))
    expected = codec.encode_segments(audio)
    segments = encoded_in_chunks(codec, audio, chunks)
    assert len(segments) == len(expected)
    for got, want in zip(segments, expected, strict=True):
        assert torch.equal(got.codes, want.codes)
        assert got.gain is want.gain is None or torch.equal(got.gain, want.gain)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("samples", [1, 79, 80, 81, 333])
def test_audio_equals_decoding_in_one_call(name: str, samples: int) -> None:
    codec = codec_of(name)
    segments = codec.encode_segments(torch.randn(2, 2, samples))
    decoder = SegmentDecoder(codec)
    pieces = [decoder.push(segment) for segment in segments]
    torch.testing.assert_close(
        torch.cat([*pieces, decoder.flush()], -1), codec.decode_segments(segments), rtol=0, atol=1e-6
    )


def test_audio_is_returned_as_soon_as_no_segment_can_change_it() -> None:
    codec = codec_of("1 % overlap")
    segments = codec.encode_segments(torch.randn(1, 2, 400))
    decoder = SegmentDecoder(codec)
    assert [decoder.push(s).shape[-1] for s in segments[:3]] == [0, 79, 79]


def test_no_audio_has_no_segments() -> None:
    codec = codec_of("1 % overlap")
    assert SegmentEncoder(codec).flush() == []
    assert SegmentDecoder(codec).flush().shape == (1, 2, 0)


def test_a_segment_longer_than_the_first_is_an_error() -> None:
    codec = codec_of("1 % overlap")
    first, *_, last = codec.encode_segments(torch.randn(1, 2, 220))
    decoder = SegmentDecoder(codec)
    decoder.push(last)
    with pytest.raises(ValueError, match="at most 64 samples, got 80"):
        decoder.push(first)


def test_a_codec_without_segments_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a codec with segments"):
        SegmentDecoder(codec_of("whole"))
