"""Decoding a part of a file: equal to that part of the whole, and only the necessary frames are decoded."""

import io
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codec import Codec
from codec.bitstream import BitstreamHeader, BitstreamReader, BitstreamWriter, Block
from codec.cli import main
from codec.coding import CodingResult, PreparedCodec, SampleRange, decode_audio, open_encoded
from codec.coding.decode_blocks import decode_blocks
from codec.streaming import StreamingDecoder
from coding_inputs import KINDS, TINY, save_tiny, tiny_codec

RATE = {kind: (TINY | changes)["sample_rate"] for kind, changes in KINDS.items()}


class CollectingSink:
    """An audio sink that keeps the audio."""

    def __init__(self) -> None:
        self.audio: list[Tensor] = []
        self.clipped = self.samples = 0

    def write(self, audio: Tensor) -> None:
        self.audio.append(audio.clone())
        self.samples += audio.shape[-1]


class EncodedSignal:
    """A codec, an encoded signal and all of its audio."""

    def __init__(self, codec: Codec, seconds: float, block_frames: int) -> None:
        self.prepared = PreparedCodec(codec)
        self.samples = round(seconds * codec.config.sample_rate)
        audio = torch.randn(1, codec.config.channels, self.samples, generator=torch.Generator().manual_seed(0))
        segments = codec.encode_segments(0.3 * audio)
        config = codec.config
        header = BitstreamHeader(
            self.prepared.fingerprint, config.sample_rate, config.channels, config.num_codebooks, config.bits_per_code,
            config.hop_samples, config.normalize, config.sample_rate, config.channels,
        )  # fmt: skip
        file = io.BytesIO()
        writer = BitstreamWriter(file, header)
        for segment in segments:
            pieces = [segment.codes] if len(segments) > 1 else segment.codes.split(block_frames, -1)
            for codes in pieces if config.causal else [segment.codes]:
                writer.write(Block(codes[0].numpy(), None if segment.gain is None else float(segment.gain)))
        writer.finish(self.samples)
        self.data = file.getvalue()
        self.audio = self.decode(SampleRange())

    def decode(self, part: SampleRange, whole_frames: bool = False) -> Tensor:
        sink = CollectingSink()
        self.result(part, whole_frames, sink)
        return torch.cat(sink.audio, -1)

    def result(self, part: SampleRange, whole_frames: bool = False, sink: CollectingSink | None = None) -> CodingResult:
        reader = open_encoded(self.prepared, io.BytesIO(self.data), "file")
        return decode_audio(self.prepared, reader, sink or CollectingSink(), part, whole_frames)

    def part(self, start_seconds: float, duration_seconds: float | None = None) -> SampleRange:
        return SampleRange.from_seconds(start_seconds, duration_seconds, self.prepared.codec.config.sample_rate)

    def expected(self, part: SampleRange) -> Tensor:
        return self.audio[:, part.start : part.stop]


@cache
def coded_by(kind: str) -> EncodedSignal:
    """Made by the first test that needs it, whose random numbers it leaves alone."""
    with torch.random.fork_rng():
        return EncodedSignal(tiny_codec(kind), 1.7, block_frames=11)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(start=st.integers(0, 1000), duration=st.one_of(st.none(), st.integers(1, 1200)), whole_frames=st.booleans())
def test_a_part_equals_that_part_of_the_whole(kind: str, start: int, duration: int | None, whole_frames: bool) -> None:
    coded = coded_by(kind)
    seconds = coded.samples / RATE[kind]
    part = coded.part(start / 1001 * seconds, None if duration is None else duration / 1000 * seconds)
    got, expected = coded.decode(part, whole_frames), coded.expected(part)
    assert expected.shape[1] <= got.shape[1] < expected.shape[1] + (320 if whole_frames else 1)
    # The part is divided into other steps than the whole, so sums round differently.
    torch.testing.assert_close(got[:, : expected.shape[1]], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_equals_codec_decode(kind: str) -> None:
    coded = coded_by(kind)
    codec = coded.prepared.codec
    audio = torch.randn(1, codec.config.channels, coded.samples, generator=torch.Generator().manual_seed(0))
    expected = codec.decode_segments(codec.encode_segments(0.3 * audio), coded.samples)[0]
    torch.testing.assert_close(coded.audio, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_parts_add_up_to_those_of_all_blocks(kind: str) -> None:
    coded = coded_by(kind)
    blocks = sum(block.size for block in BitstreamReader(io.BytesIO(coded.data), "file").blocks())
    length = 9 + int.from_bytes(coded.data[5:9], "big") + 4
    assert blocks == len(coded.data) - length - 22  # without the header and the end
    cuts = [0, 300, 12_345, 23_000, 23_900, 24_100, coded.samples - 1000]
    results = [coded.result(SampleRange(start, stop)) for start, stop in pairwise([*cuts, None])]
    assert sum(result.encoded_bytes for result in results) == pytest.approx(blocks, abs=len(cuts) / 2)
    for result, cut, end in zip(results, cuts, [*cuts[1:], coded.samples], strict=True):
        assert result.seconds == (end - cut) / RATE[kind]
        assert result.kbps == 8 * result.encoded_bytes / result.seconds / 1000
    # The bitrate of half a second is that of the file, except for the overhead of a block or two.
    whole = 8 * blocks / coded.samples * RATE[kind] / 1000
    assert [coded.result(coded.part(s, 0.5)).kbps for s in (0.0, 0.4, 1.1)] == pytest.approx([whole] * 3, rel=0.1)


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[int]:
    """Records the numbers of frames that a method is called with."""
    sizes: list[int] = []
    plain = getattr(owner, name)

    def counting(self: object, argument: object) -> object:
        sizes.append(getattr(argument, "codes", argument).shape[-1])
        return plain(self, argument)

    monkeypatch.setattr(owner, name, counting)
    return sizes


@pytest.mark.parametrize(
    ("start", "duration", "segments"),
    [(0.0, 0.1, 1), (0.6, 0.3, 1), (0.49, 0.3, 2), (0.498, 0.1, 2), (0.6, 0.4, 2), (1.6, None, 1), (0.3, None, 4)],
)
def test_only_segments_that_overlap_the_part_are_decoded(
    monkeypatch: pytest.MonkeyPatch, start: float, duration: float | None, segments: int
) -> None:
    """The segments have 0.5 s and start every 0.495 s."""
    sizes = count_calls(monkeypatch, Codec, "decode_segment")
    coded = coded_by("segments")
    coded.decode(coded.part(start, duration))
    assert len(sizes) == segments


def test_without_lstm_only_frames_that_affect_the_part_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = count_calls(monkeypatch, StreamingDecoder, "push")
    skipped = count_calls(monkeypatch, StreamingDecoder, "skip")
    warm_up = StreamingDecoder(coded_by("causal_no_lstm").prepared.codec).warm_up_frames
    coded_by("causal_no_lstm").decode(SampleRange(24_000, 26_400))
    assert sum(pushed) <= warm_up + 8 + 2 * 11  # 0.1 s, and the rest of a block on both sides
    assert sum(skipped) < 11


def test_with_lstm_only_its_layers_process_earlier_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = count_calls(monkeypatch, StreamingDecoder, "push")
    skipped = count_calls(monkeypatch, StreamingDecoder, "skip")
    coded_by("causal").decode(SampleRange(24_000, 26_400))
    assert sum(skipped) == 75 - StreamingDecoder(coded_by("causal").prepared.codec).warm_up_frames
    assert sum(pushed) <= 2 + 8 + 2 * 11


def test_segments_of_another_length_than_the_model_has_are_refused() -> None:
    coded = coded_by("segments")
    reader = BitstreamReader(io.BytesIO(coded.data), "file")
    blocks = list(reader.blocks())
    file = io.BytesIO()
    writer = BitstreamWriter(file, reader.header)
    for block in [Block(blocks[0].codes[:, :60], blocks[0].gain), *blocks[1:]]:
        writer.write(block)
    writer.finish(coded.samples - 15 * 320)
    file.seek(0)
    with pytest.raises(ValueError, match="a segment before segment 2 does not have 75 frames"):
        list(decode_blocks(coded.prepared.codec, BitstreamReader(file, "file"), SampleRange(50_000)))


def test_the_command_decodes_parts_and_refuses_impossible_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", save_tiny("causal", tmp_path)]
    source, encoded, whole, part = (str(tmp_path / name) for name in ("in.wav", "a.ecdc", "whole.wav", "part.wav"))
    soundfile.write(source, 0.3 * np.sin(np.arange(50_000) / 9), 24_000)
    assert main(["encode", source, "-f", "-o", encoded, "--coding", "fixed", *model]) == 0
    assert main(["decode", encoded, "-f", "-o", whole, *model]) == 0
    assert main(["decode", encoded, "-f", "-o", part, "--start", "0.5", "--duration", "0.25", *model]) == 0
    expected, got = soundfile.read(whole)[0][12_000:18_000], soundfile.read(part)[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1.01 * 2**-15)
    rates = re.findall(r"(\S+): [\d.]+ s, ([\d.]+) kbit/s \((\d+) bytes\), ", capsys.readouterr().out)
    assert [path for path, *_ in rates] == [encoded, whole, part]
    size = Path(encoded).stat().st_size
    assert rates[0][1:] == rates[1][1:] == (f"{8 * size / (50_000 / 24):.2f}", str(size))
    assert float(rates[2][1]) == pytest.approx(2.4, rel=0.1)  # of the codes alone
    assert main(["decode", encoded, "-f", "-o", part, "--start", "2", "--duration", "9", *model]) == 0
    assert soundfile.info(part).frames == 2000
    for options, message in [
        (["--start", "-1"], "the start must be 0 s or later, got -1 s"),
        (["--start", "nan"], "the start must be 0 s or later, got nan s"),
        (["--duration", "0"], "the duration must be at least one sample of 1/24000 s, got 0 s"),
        (["--duration", "1e-9"], "the duration must be at least one sample"),
        (["--start", "2.0834"], f"{encoded} is 2.083 s long, but the start is at 2.083 s"),
        (["--start", "1e6"], f"{encoded} is 2.083 s long"),
    ]:
        capsys.readouterr()
        assert main(["decode", encoded, "-f", "-o", part, *options, *model]) == 1
        assert message in capsys.readouterr().err
    assert soundfile.info(part).frames == 2000  # an error does not replace the file
