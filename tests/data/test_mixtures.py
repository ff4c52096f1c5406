"""Mixtures: their frequencies, levels and exclusions, in the numbers of the papers."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from data import DataError, Manifest, Mixture, MixtureDataset, is_clipped, scan_folder

RATE = 8000
SOURCES = {"music": 500, "speech": 1000, "effects": 2000}  # Hz; a segment of 0.1 s has whole periods of each
CONFIGS = Path(__file__).parents[2] / "configs/data"


def write_tone(path: Path, hertz: float, amplitude: float = 0.05) -> None:
    path.parent.mkdir(exist_ok=True)
    time = np.arange(RATE) / RATE
    soundfile.write(path, amplitude * np.sin(2 * np.pi * hertz * time), RATE, subtype="FLOAT")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """One tone for each source."""
    for name, hertz in SOURCES.items():
        write_tone(tmp_path / name / "tone.wav", hertz)
    return scan_folder(tmp_path, source_of=lambda path: path.split("/")[0])


def dataset(manifest: Manifest, **settings: Any) -> MixtureDataset:
    return MixtureDataset(manifest, RATE, 1, 0.1, **settings)


def levels_db(audio: torch.Tensor) -> dict[str, float]:
    """RMS in dBFS of each tone in a segment."""
    amplitudes = torch.fft.rfft(audio[0].double()).abs() / (audio.shape[-1] / 2)
    found = {name: float(amplitudes[hertz // 10]) for name, hertz in SOURCES.items()}
    return {name: 20 * np.log10(amplitude / np.sqrt(2)) for name, amplitude in found.items() if amplitude > 1e-5}


class Marker:
    """In place of reverberation: a constant that tells that it was applied."""

    def __call__(self, audio: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return audio * 0.5 + 0.25


def test_the_mixtures_of_encodec_have_the_frequencies_of_the_paper(manifest: Manifest) -> None:
    """Section 4.1: 0.32 music, 0.32 another source, 0.24 two of all, 0.12 three without music."""
    settings = OmegaConf.to_container(OmegaConf.load(CONFIGS / "encodec_mix.yaml").dataset)
    engine = {key: settings[key] for key in ("roles", "mixtures", "level_dbfs", "minimum_gain_db", "maximum_gain_db")}
    mixed = dataset(manifest, source_weights=dict.fromkeys(SOURCES, 1.0), reverb=Marker(), **engine)
    kinds: Counter[str] = Counter()
    for index in range(800):
        segment = mixed[index]
        parts = segment.source.split("+")
        kinds["music" if parts == ["music"] else str(len(parts))] += 1
        assert levels_db(segment.audio).keys() == set(parts)
        assert len(parts) < 3 or "music" not in parts
        assert bool(segment.audio.mean() > 0.2) == (parts != ["music"])  # no reverberation of music alone
    expected = {"music": 0.32, "1": 0.32, "2": 0.24, "3": 0.12}
    for kind, probability in expected.items():
        tolerance = 4 * np.sqrt(probability * (1 - probability) / 800)
        assert kinds[kind] / 800 == pytest.approx(probability, abs=tolerance)


def test_the_mixtures_of_hilcodec_have_noise_in_half_of_the_speech(manifest: Manifest) -> None:
    """Its configuration: 0.67 speech, mixed with noise with a probability of 0.5, and 0.33 music; -10 to 6 dB."""
    settings = OmegaConf.to_container(OmegaConf.load(CONFIGS / "hilcodec_mix.yaml").dataset)
    engine = {key: settings[key] for key in ("mixtures", "minimum_gain_db", "maximum_gain_db")}
    mixed = dataset(manifest, roles=settings["roles"] | {"noise": ["effects"]}, **engine)
    kinds = Counter(mixed[index].source for index in range(400))
    for kind, probability in {"speech": 0.335, "speech+effects": 0.335, "music": 0.33}.items():
        tolerance = 4 * np.sqrt(probability * (1 - probability) / 400)
        assert kinds[kind] / 400 == pytest.approx(probability, abs=tolerance)


def test_recordings_get_a_level_and_a_gain_that_is_uniform_in_db(manifest: Manifest) -> None:
    mixed = dataset(
        manifest, mixtures=[Mixture([["music"], ["speech"]])], level_dbfs=-24, minimum_gain_db=-10, maximum_gain_db=6
    )
    levels = np.array([list(levels_db(mixed[index].audio).values()) for index in range(300)]) + 24
    assert levels.shape == (300, 2)
    assert levels.min() == pytest.approx(-10, abs=0.2)
    assert levels.max() == pytest.approx(6, abs=0.2)
    np.testing.assert_allclose(levels.mean(0), -2, atol=4 * 16 / np.sqrt(12 * 300))
    assert abs(np.corrcoef(levels.T)[0, 1]) < 4 / np.sqrt(300)


def test_noise_is_mixed_into_speech_at_the_ratio(manifest: Manifest) -> None:
    kinds = [Mixture([["speech"]], 0.5), Mixture([["speech"], ["music", "effects"]], 0.5, snr_db=(5, 25))]
    mixed = dataset(manifest, mixtures=kinds, minimum_gain_db=-3, maximum_gain_db=3)
    found = [levels_db(mixed[index].audio) for index in range(400)]
    assert all("speech" in levels for levels in found)
    noisy = [levels for levels in found if len(levels) == 2]
    assert len(noisy) / 400 == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(400))
    ratios = np.array([2 * levels["speech"] - sum(levels.values()) for levels in noisy])
    assert 4.99 < ratios.min() < 6
    assert 24 < ratios.max() < 25.01
    assert ratios.mean() == pytest.approx(15, abs=4 * 20 / np.sqrt(12 * len(ratios)))
    assert {name for levels in noisy for name in levels} == set(SOURCES)


def test_a_segment_depends_on_seed_and_index_alone(manifest: Manifest) -> None:
    kinds = [Mixture([["music", "speech"], ["effects", "speech"]])]
    one, two = (dataset(manifest, mixtures=kinds, seed=3, reverb=Marker()) for _ in range(2))
    forwards, backwards = [one[i] for i in range(8)], [two[i] for i in reversed(range(8))]
    for a, b in zip(forwards, reversed(backwards), strict=True):
        assert torch.equal(a.audio, b.audio)
        assert a.source == b.source
    other = dataset(manifest, mixtures=kinds, seed=4, reverb=Marker())
    assert not any(torch.equal(segment.audio, other[i].audio) for i, segment in enumerate(forwards))
    assert len(one) == 30
    assert one.segment_samples == 800


def test_two_parts_of_a_role_are_two_recordings(manifest: Manifest) -> None:
    """A tone added to itself at another phase; the same recording twice would always have twice the level."""
    mixed = dataset(manifest, mixtures=[Mixture([["music"], ["music"]])])
    levels = [levels_db(mixed[index].audio).get("music", -100.0) for index in range(30)]
    assert np.ptp(levels) > 6


def test_clipped_mixtures_are_rejected(manifest: Manifest, tmp_path: Path) -> None:
    write_tone(tmp_path / "music/tone.wav", 500, 0.9)
    kinds = [Mixture([["music"], ["effects"]]), Mixture([["speech"]])]
    loud = dataset(manifest, mixtures=kinds, minimum_gain_db=3, maximum_gain_db=3)
    assert {loud[index].source for index in range(40)} == {"speech"}
    only = dataset(manifest, mixtures=kinds[:1], minimum_gain_db=3, maximum_gain_db=3)
    assert float(only[0].audio.abs().max()) == pytest.approx(1)  # nothing else can be drawn: scaled


def test_clipped_recordings_are_rejected_on_request(manifest: Manifest, tmp_path: Path) -> None:
    clipped = np.clip(2 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE), -1, 1)
    soundfile.write(tmp_path / "music/tone.wav", clipped, RATE, subtype="FLOAT")
    kinds = [Mixture([["music", "effects"]])]
    for reject, expected in ((True, {"effects"}), (False, {"music", "effects"})):
        mixed = dataset(manifest, mixtures=kinds, reject_clipped=reject, minimum_gain_db=-6, maximum_gain_db=-6)
        assert {mixed[index].source for index in range(40)} == expected


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0.5, 1.0, 1.0, 0.5], False),
        ([0.5, 1.0, 1.0, 1.0], True),
        ([-1.0, -1.0, -0.9995, 0.0], True),
        ([1.0, -1.0, 1.0, -1.0], False),
        ([0.9, 0.9, 0.9, 0.9], False),
        ([1.0], False),
        ([], False),
    ],
)
def test_three_neighbours_at_full_scale_are_clipped(samples: list[float], expected: bool) -> None:
    assert is_clipped(torch.tensor([samples])) == expected
    assert is_clipped(torch.stack([torch.zeros(len(samples)), torch.tensor(samples)])) == expected


def test_files_that_do_not_decode_are_reported(manifest: Manifest, tmp_path: Path) -> None:
    write_tone(tmp_path / "music/b.wav", 500)
    manifest = scan_folder(tmp_path, source_of=lambda path: path.split("/")[0])
    (tmp_path / "music/b.wav").unlink()
    mixed = dataset(manifest, mixtures=[Mixture([["music"], ["speech"]])])
    assert {path for index in range(20) for path in mixed[index].skipped_files} == {str(tmp_path / "music/b.wav")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixtures": []}, "at least one with a probability above 0"),
        ({"mixtures": [{"parts": [["music"]], "probability": 0}]}, "at least one with a probability above 0"),
        ({"mixtures": [{"parts": []}]}, "a mixture with at least one part"),
        ({"mixtures": [{"parts": [["music"]], "snr_db": (9, 3)}]}, r"snr_db \[lowest, highest\]"),
        ({"mixtures": [{"part": [["music"]]}]}, "expected mixtures with parts, probability, snr_db and reverb"),
        ({"mixtures": [{"parts": [["noise"]]}]}, r"has the roles \['noise'\], expected some of \['effects'"),
        ({"mixtures": [{"parts": [["noise"]]}], "roles": {"noise": ["hum"]}}, r"one of the roles \['noise'\]"),
        ({"mixtures": [{"parts": [["music"]]}], "minimum_gain_db": 1}, "minimum_gain_db <= maximum_gain_db, got 1"),
        ({"mixtures": [{"parts": [["music"]]}], "source_weights": {"music": 1}}, "the corpus has the sources"),
    ],
)
def test_mistakes_are_named(manifest: Manifest, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(manifest, **settings)
