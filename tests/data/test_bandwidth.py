"""Bandwidth: where a spectrum ends, what a manifest records, and how often such files are drawn."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.audio import resample
from data import DataError, Manifest, SegmentDataset, bandwidth_hz, measure_bandwidths, scan_folder
from data.__main__ import main

RATE = 24000


def noise(band_hz: int, samples: int, seed: int = 0) -> torch.Tensor:
    """Noise up to a frequency, at 24 kHz."""
    white = 0.1 * torch.randn(1, samples * band_hz * 2 // RATE, generator=torch.Generator().manual_seed(seed))
    return resample(white, 2 * band_hz, RATE)


@pytest.mark.parametrize("band_hz", [3000, 4000, 8000, 11025])
def test_the_spectrum_of_resampled_noise_ends_at_its_old_nyquist_frequency(band_hz: int) -> None:
    assert bandwidth_hz(noise(band_hz, RATE), RATE) == pytest.approx(band_hz, abs=250)


def test_degenerate_audio_has_a_bandwidth() -> None:
    assert bandwidth_hz(0.1 * torch.randn(2, RATE), RATE) == RATE / 2
    for samples in (0, 1, 10, RATE):
        assert bandwidth_hz(torch.zeros(1, samples), RATE) == 0


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two files of 2 s at 24 kHz, told apart by their sign, and a short one."""
    for name, band_hz, offset in (("full", 12000, 0.5), ("narrow", 4000, -0.5)):
        audio = noise(band_hz, 2 * RATE)[0].numpy()[: 2 * RATE] * 0.1 + offset
        soundfile.write(tmp_path / f"{name}.wav", audio, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", np.full(2400, 0.9), RATE, subtype="FLOAT")
    return tmp_path


def test_a_manifest_records_bandwidths(corpus: Path) -> None:
    manifest_path = corpus / "manifest.jsonl"
    assert main([str(corpus), str(manifest_path), "--bandwidth"]) == 0
    found = {entry.path: entry.further["bandwidth_hz"] for entry in Manifest.load(manifest_path).entries}
    assert found["full.wav"] > 11700
    assert found["narrow.wav"] == pytest.approx(4000, abs=250)


def test_files_that_do_not_decode_get_no_bandwidth(corpus: Path) -> None:
    manifest = scan_folder(corpus)
    (corpus / "full.wav").unlink()
    assert [entry.further is None for entry in measure_bandwidths(manifest).entries] == [True, False, False]


def test_files_with_a_narrow_band_are_drawn_less_often(corpus: Path) -> None:
    """Two files of equal length; a fifth of the weight for a narrow band."""
    (corpus / "short.wav").unlink()
    manifest = measure_bandwidths(scan_folder(corpus))

    def narrow(weight: float, full_band_hz: float | None = 11000) -> float:
        dataset = SegmentDataset(manifest, RATE, 1, 0.01, full_band_hz=full_band_hz, narrow_band_weight=weight)
        signs = Counter(float(dataset[index].audio.mean()) < 0 for index in range(300))
        return signs[True] / 300

    assert narrow(0.0) == 0
    assert narrow(0.2) == pytest.approx(1 / 6, abs=4 * np.sqrt(5 / 36 / 300))
    assert narrow(0.2, full_band_hz=3000) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(300))
    assert narrow(0.2, full_band_hz=None) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(300))


def test_mistakes_are_named(corpus: Path) -> None:
    manifest = scan_folder(corpus)
    with pytest.raises(DataError, match=r"narrow_band_weight in \[0, 1\], got 2"):
        SegmentDataset(manifest, RATE, 1, 0.1, full_band_hz=11000, narrow_band_weight=2)
    with pytest.raises(DataError, match="all files of a source have the weight 0"):
        SegmentDataset(manifest, RATE, 1, 0.1, full_band_hz=13000, narrow_band_weight=0)
    line = '{"path": "full.wav", "bandwidth_hz": "wide"}'
    (corpus / "manifest.jsonl").write_text(line)
    with pytest.raises(DataError, match=r"full\.wav: bandwidth_hz: expected a number, got 'wide'"):
        SegmentDataset(Manifest.load(corpus / "manifest.jsonl"), RATE, 1, 0.1, full_band_hz=11000)
