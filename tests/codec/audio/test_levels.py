"""Notes on unusual levels."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.audio import AudioReader, Levels


@pytest.mark.parametrize(("peak", "said"), [(1.0, None), (1.3, None), (4.0, "peak is 4, 12.0 dB above full scale")])
def test_a_peak_far_above_full_scale_is_said(peak: float, said: str | None) -> None:
    levels = Levels()
    levels.push(np.array([[0.5], [-peak]], np.float32))
    levels.push(np.array([[0.1]], np.float32))
    assert levels.peak == np.float32(peak)
    assert [said] == [note[4:][: len(said or "")] for note in levels.notes()] if said else not levels.notes()


@pytest.mark.parametrize(
    ("right", "said"),
    [(-1.0, "silent"), (-0.999, "66 dB below"), (-0.9, "26 dB below"), (-0.7, None), (0.0, None), (1.0, None)],
)
def test_channels_that_cancel_each_other_are_said(tmp_path: Path, right: float, said: str | None) -> None:
    left = np.random.default_rng(1).uniform(-0.5, 0.5, 50_000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right * left], 1), 24_000, subtype="FLOAT")
    for channels in (1, 2):
        reader = AudioReader(tmp_path / "a.wav", 24_000, channels)
        list(reader.blocks())
        assert [said or ""] == [note.partition("mono mix is ")[2][: len(said or "")] for note in reader.notes or [""]]


def test_silence_and_mono_have_no_notes() -> None:
    for channels in (1, 2, 6):
        levels = Levels()
        levels.push(np.zeros((100, channels), np.float32))
        levels.push(np.zeros((0, channels), np.float32))
        assert levels.notes() == []
