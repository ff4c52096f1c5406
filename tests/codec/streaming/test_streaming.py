"""Streaming gives the codes and the audio of coding in one pass."""

from copy import deepcopy
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codec import Codec, EncodedSegment
from codec.model_file import fingerprint
from codec.streaming import StreamingDecoder, StreamingEncoder
from codec_inputs import seanet_codec

TINY: dict[str, Any] = {
    "sample_rate": 800,
    "filters": 4,
    "strides": (2, 4),
    "latent_dim": 16,
    "num_codebooks": 4,
    "codebook_size": 16,
    "bandwidths_kbps": (0.8, 1.6),
}
CAUSAL = {
    "encodec": {},
    "audiocraft": {"padding": "constant", "skip": "identity"},
    "identity_reflect": {"skip": "identity", "lstm_layers": 0},
    "dilated": {"residual_layers": 3, "lstm_layers": 1, "strides": (3, 1, 2)},
    "stereo": {"channels": 2, "padding": "constant", "norm": "none", "kernel_size": 4, "residual_kernel_size": 2},
}
CHUNKS = st.lists(st.sampled_from([0, 1, 2, 3, 7, 8, 13, 40, 150]), min_size=0, max_size=12)


def tiny_codec(**changes: Any) -> Codec:
    """A codec whose latents vary more than those of a fresh encoder, with codes from latents of noise."""
    torch.manual_seed(1)
    codec = seanet_codec(**(TINY | changes)).eval()
    with torch.no_grad():
        for name, parameter in codec.encoder.named_parameters():
            if name.endswith(("conv.weight", "weight.original0")):
                parameter *= 2
        latent = codec.encoder(torch.randn(1, codec.config.channels, 8000))
        codec.quantizer.initialize(latent[0].t(), seed=0)
    return codec


@cache
def streaming_codec(name: str) -> Codec:
    """Made by the first test that needs it, whose random numbers it leaves alone."""
    with torch.random.fork_rng():
        return tiny_codec(**CAUSAL[name])


def split(x: Tensor, chunks: list[int]) -> list[Tensor]:
    """Chunks of the given sizes and the rest."""
    cuts = [0]
    for size in chunks:
        cuts.append(min(cuts[-1] + size, x.shape[-1]))
    return [x[..., a:b] for a, b in pairwise([*cuts, x.shape[-1]])]


def stream_encode(codec: Codec, audio: Tensor, chunks: list[int], bandwidth_kbps: float | None = None) -> Tensor:
    encoder = StreamingEncoder(codec, bandwidth_kbps)
    return torch.cat([*(encoder.push(piece) for piece in split(audio, chunks)), encoder.flush()], -1)


def stream_decode(codec: Codec, codes: Tensor, chunks: list[int]) -> Tensor:
    decoder = StreamingDecoder(codec)
    return torch.cat([*(decoder.push(piece) for piece in split(codes, chunks)), decoder.flush()], -1)


def assert_streams_as_offline(codec: Codec, samples: int, chunks: list[int], batch: int = 1) -> None:
    generator = torch.Generator().manual_seed(samples)
    audio = torch.randn(batch, codec.config.channels, samples, generator=generator)
    offline = codec.encode_segments(audio)
    codes = stream_encode(codec, audio, chunks)
    assert_same_codes(codec, audio, codes, offline[0].codes)
    assert_decodes_as_offline(codec, offline, chunks)


def assert_decodes_as_offline(codec: Codec, offline: list[EncodedSegment], chunks: list[int]) -> None:
    decoded = codec.decode_segments(offline)
    atol = 1e-6 * max(1.0, float(decoded.abs().max()))
    torch.testing.assert_close(stream_decode(codec, offline[0].codes, chunks), decoded, rtol=0, atol=atol)


def assert_same_codes(codec: Codec, audio: Tensor, codes: Tensor, expected: Tensor) -> None:
    """Equal, except after a codebook in which float32 cannot tell two codes apart.

    In a hundred thousand random decisions such a tie does occur.
    """
    assert codes.shape == expected.shape
    latent = codec.encoder(audio).detach().double()
    for b, f in (codes != expected).any(1).nonzero().tolist():
        k = int((codes[b, :, f] != expected[b, :, f]).nonzero()[0])
        books = codec.quantizer.embed.double()
        residual = latent[b, :, f] - sum(books[i, codes[b, i, f]] for i in range(k))
        near, far = sorted(float((residual - books[k, c[b, k, f]]).square().sum()) for c in (codes, expected))
        # The quantizer compares |e|^2 - 2 <v, e> in float32, each term of which is rounded.
        assert far - near < 1e-6 * (residual.norm() + books[k].norm(dim=1).max()) ** 2


@pytest.mark.parametrize("name", CAUSAL)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(samples=st.integers(1, 400), chunks=CHUNKS)
def test_streaming_equals_offline_for_any_chunks(name: str, samples: int, chunks: list[int]) -> None:
    assert_streams_as_offline(streaming_codec(name), samples, chunks)


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_streaming_equals_offline_sample_by_sample_at_every_short_length(name: str) -> None:
    """An encoder gets the samples one by one, and a copy of it ends the stream after each."""
    codec = streaming_codec(name)
    audio = torch.randn(1, codec.config.channels, 39)
    encoder, pushed = StreamingEncoder(codec), []
    for samples in range(1, 40):
        pushed.append(encoder.push(audio[..., samples - 1 : samples]))
        codes = torch.cat([*pushed, deepcopy(encoder, {id(m): m for m in codec.modules()}).flush()], -1)
        offline = codec.encode_segments(audio[..., :samples])
        assert_same_codes(codec, audio[..., :samples], codes, offline[0].codes)
        assert_decodes_as_offline(codec, offline, [1] * samples)


@pytest.mark.parametrize("name", CAUSAL)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(samples=st.integers(1, 400), chunks=CHUNKS)
def test_in_float64_every_code_is_the_same(name: str, samples: int, chunks: list[int]) -> None:
    """In float64 rounding decides no ties."""
    codec = deepcopy(streaming_codec(name)).double()
    audio = torch.randn(1, codec.config.channels, samples, generator=torch.Generator().manual_seed(samples)).double()
    offline = codec.encode_segments(audio)
    assert torch.equal(stream_encode(codec, audio, chunks), offline[0].codes)
    decoded = stream_decode(codec, offline[0].codes, chunks)
    torch.testing.assert_close(decoded, codec.decode_segments(offline), rtol=0, atol=1e-12)


def test_streaming_equals_offline_on_a_batch() -> None:
    assert_streams_as_offline(streaming_codec("encodec"), 301, [100, 57], batch=3)


def test_codes_of_the_test_are_varied() -> None:
    """Otherwise equal codes would prove little."""
    codec = streaming_codec("encodec")
    codes = codec.encode_segments(torch.randn(1, 1, 2000))[0].codes
    assert min(len(codebook.unique()) for codebook in codes[0]) >= 8


def test_constant_padding_has_a_latency_of_one_frame() -> None:
    codec = streaming_codec("audiocraft")
    encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
    hop = codec.config.hop_samples
    for _ in range(5):
        assert encoder.push(torch.randn(1, 1, hop - 1)).shape[-1] == 0
        codes = encoder.push(torch.randn(1, 1, 1))
        assert codes.shape[-1] == 1
        assert decoder.push(codes).shape[-1] == hop


def test_codes_of_a_prefix_are_a_prefix_of_the_codes() -> None:
    codec = streaming_codec("encodec")
    audio = torch.randn(1, 1, 400)
    whole = stream_encode(codec, audio, [])
    for samples in (8, 96, 200):
        part = StreamingEncoder(codec).push(audio[..., :samples])
        torch.testing.assert_close(part, whole[..., : part.shape[-1]], rtol=0, atol=0)
        # Reflection delays a few frames at the start only.
        assert part.shape[-1] == samples // 8 or samples < 96


def test_bandwidth_selects_the_codebooks() -> None:
    codec = streaming_codec("audiocraft")
    audio = torch.randn(1, 1, 100)
    codes = stream_encode(codec, audio, [30], bandwidth_kbps=0.8)
    torch.testing.assert_close(codes, codec.encode_segments(audio, 0.8)[0].codes, rtol=0, atol=0)
    assert codes.shape[1] == 2
    assert StreamingEncoder(codec, 0.8).flush().shape == (1, 2, 0)


def test_streams_of_one_codec_are_independent_and_do_not_change_it() -> None:
    codec = streaming_codec("encodec")
    before = fingerprint(codec)
    audio = torch.randn(2, 1, 1, 240)
    encoders = [StreamingEncoder(codec), StreamingEncoder(codec)]
    codes: list[list[Tensor]] = [[], []]
    for start in range(0, 240, 60):
        for i in range(2):
            codes[i].append(encoders[i].push(audio[i, ..., start : start + 60]))
    for i in range(2):
        codes[i].append(encoders[i].flush())
        torch.testing.assert_close(torch.cat(codes[i], -1), codec.encode_segments(audio[i])[0].codes, rtol=0, atol=0)
    assert fingerprint(codec) == before


def test_memory_of_a_stream_does_not_grow() -> None:
    codec = streaming_codec("encodec")
    encoder = StreamingEncoder(codec)

    def held() -> int:
        """Bytes of all tensors below the stream, each with the storage it keeps alive."""
        seen, stack = {}, [encoder._network]
        while stack:
            item = stack.pop()
            if isinstance(item, torch.Tensor):
                seen[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
            elif isinstance(item, list | tuple):
                stack += item
            elif hasattr(item, "__dict__") and not isinstance(item, torch.nn.Module):
                stack += vars(item).values()
        return sum(seen.values())

    encoder.push(torch.randn(1, 1, 800))
    first = held()
    for _ in range(5):
        encoder.push(torch.randn(1, 1, 8000))
    assert held() == first


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"causal": False}, "not causal"),
        ({"segment_seconds": 1.0}, "segments of 1.0 s"),
        ({"normalize": True}, "RMS of the whole signal"),
    ],
)
def test_codecs_that_cannot_stream_are_refused(changes: dict[str, Any], sentence: str) -> None:
    codec = tiny_codec(**changes)
    assert not codec.config.can_stream
    for stream in (StreamingEncoder, StreamingDecoder):
        with pytest.raises(ValueError, match=sentence):
            stream(codec)


def test_wrong_pushes_are_refused() -> None:
    codec = streaming_codec("encodec")
    with pytest.raises(ValueError, match=r"expected \[B, 1, t\] in this stream, got \[1, 2, 10\]"):
        StreamingEncoder(codec).push(torch.zeros(1, 2, 10))
    encoder = StreamingEncoder(codec)
    encoder.push(torch.zeros(2, 1, 10))
    with pytest.raises(ValueError, match=r"expected \[2, 1, t\] in this stream, got \[3, 1, 10\]"):
        encoder.push(torch.zeros(3, 1, 10))
    encoder.flush()
    with pytest.raises(ValueError, match="this stream was flushed"):
        encoder.push(torch.zeros(2, 1, 10))
