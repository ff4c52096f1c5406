"""Joins of segments are cross-faded without a click (the 48 kHz model: 1 s, of which 1 % overlaps the next)."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from codec import Codec, CodecConfig, EncodedSegment
from codec.coding.segments import SegmentDecoder
from coding_inputs import ROOT
from scripts.composition import build_trainer

RATE, LENGTH, STRIDE = 48_000, 48_000, 47_520


class PlayedBack:
    """In place of a codec: its segments decode to what they were made of, times a gain of their own.

    So what the joins add is all there is to hear.
    """

    def __init__(self) -> None:
        self.config = CodecConfig(
            sample_rate=RATE, channels=2, causal=False, norm="time_group_norm", segment_seconds=1.0, lstm_layers=0
        )
        self.pieces: list[Tensor] = []

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def segment_stride(self, samples: int) -> int:
        return STRIDE

    def decode_segment(self, segment: EncodedSegment) -> Tensor:
        return self.pieces[int(segment.codes)]


def played(audio: Tensor, gains: list[float]) -> Tensor:
    """[C, T] cut into segments, each with its gain, and joined again."""
    codec = PlayedBack()
    starts = range(0, audio.shape[-1], STRIDE)
    codec.pieces = [g * audio[None, :, s : s + LENGTH] for s, g in zip(starts, gains, strict=True)]
    decoder = SegmentDecoder(codec)  # type: ignore[arg-type]
    joined = [decoder.push(EncodedSegment(torch.tensor(i), None)) for i in range(len(gains))]
    return torch.cat([*joined, decoder.flush()], -1)[0]


def sine(seconds: float, frequency_hz: float = 1000.0) -> Tensor:
    """[2, T] in float64, so that what is measured beside it is not rounding."""
    phase = 2 * math.pi * frequency_hz * torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return torch.stack([phase.sin(), phase.cos()])


def beside_the_sine_db(audio: Tensor, center: int, frequency_hz: float = 1000.0) -> float:
    """Energy more than 300 Hz away from a sine, over that of the sine, in 43 ms around a sample."""
    window = torch.hann_window(2048, periodic=False, dtype=torch.float64) ** 2  # its own skirts stay below -120 dB
    spectrum = torch.fft.rfft(audio[:, center - 1024 : center + 1024] * window).abs().square().sum(0)
    frequencies = torch.arange(len(spectrum)) * RATE / 2048
    near = (frequencies - frequency_hz).abs() < 300
    return 10 * math.log10(float(spectrum[~near].sum() / spectrum[near].sum()))


def test_a_signal_that_comes_back_unchanged_has_no_joins() -> None:
    audio = sine(3.2)
    torch.testing.assert_close(played(audio, [1.0] * 4), audio, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("gains", "limit_db"), [([0.8, 1.0, 0.9, 1.0], -60), ([1.0, 0.3, 1.0, 0.1], -45)])
def test_a_change_of_gain_from_segment_to_segment_makes_no_click(gains: list[float], limit_db: float) -> None:
    """Even where a segment comes back 20 dB too quiet."""
    audio = played(sine(3.2), gains)
    for join, (before, after) in enumerate(pairwise(gains)):
        middle = (join + 1) * STRIDE + (LENGTH - STRIDE) // 2
        fade = beside_the_sine_db(audio, middle)
        assert beside_the_sine_db(audio, middle - RATE // 4) < -105
        # The same two levels with nothing between them, which is a click.
        hard = torch.cat([before * sine(3.2)[:, :middle], after * sine(3.2)[:, middle:]], -1)
        assert fade < beside_the_sine_db(hard, middle) - 25
        assert fade < limit_db


def test_the_fade_is_linear_and_as_long_as_the_overlap() -> None:
    audio = played(torch.ones(1, round(2.5 * RATE), dtype=torch.float64), [1.0, 3.0, 2.0])[0]
    overlap = LENGTH - STRIDE
    assert (audio[:STRIDE] == 1).all()
    torch.testing.assert_close(audio[LENGTH : 2 * STRIDE], torch.full((STRIDE - overlap,), 3.0).double())
    steps = audio[STRIDE : STRIDE + overlap].diff()
    torch.testing.assert_close(steps, torch.full_like(steps, 2 / (overlap + 1)), rtol=2e-3, atol=0)


def test_the_48_khz_experiment_trains_on_segments_with_a_scale_each(tmp_path: Path) -> None:
    """A step at tiny size; then a quiet and a loud segment come back as loud as they were."""
    tiny = [
        "experiment=encodec_48khz", "data=clips", "data.num_workers=0", "data.batch_size=2", "codec.config.filters=2",
        "codec.config.latent_dim=8", "codec.config.codebooks=4", "codec.config.codebook_size=16",
        "codec.config.bandwidths_kbps=[0.6,1.2,2.4]", "discriminator.filters=2", "discriminator.windows=[256]",
        "data.segment_seconds=0.1", "trainer.device=cpu", "trainer.precision=float32", "name=tiny",
        "data.held_out={seconds: 0.2, clips_per_source: 1}", "validation.bandwidth_kbps=2.4",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        trainer = build_trainer(compose("train", tiny), tmp_path)
    audio = trainer.data.batch(0)
    assert audio.shape == (2, 2, 4800)
    trainer.codec.quantizer.start(torch.randn(256, 8))
    before = [parameter.clone() for parameter in trainer.codec.parameters()]
    trainer.train_step(audio)
    trainer.logger.close()
    after = list(trainer.codec.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.numel() > 16)
    assert all(bool(parameter.isfinite().all()) for parameter in after)

    codec: Codec = trainer.codec.eval()
    audio = torch.cat([0.001 * torch.randn(1, 2, STRIDE), torch.randn(1, 2, LENGTH)], -1)
    segments = codec.encode(audio)
    assert [s.codes.shape for s in segments] == [(1, 4, 150), (1, 4, 150), (1, 4, 2)]
    rms = [audio[..., s : s + LENGTH].mean(1).square().mean().sqrt() for s in (0, STRIDE, 2 * STRIDE)]
    torch.testing.assert_close(torch.cat([s.scale for s in segments if s.scale is not None]), torch.stack(rms))
    decoded = codec.decode(segments, audio.shape[-1])
    # Before the segments meet, the sound of the first does not depend on what is in the second.
    alone = codec.decode_segment(segments[0])
    torch.testing.assert_close(decoded[..., : STRIDE - 1], alone[..., : STRIDE - 1], rtol=1e-5, atol=1e-7)
