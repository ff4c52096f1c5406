"""The rate-distortion evaluation of a model and of Opus, and the files that `codec evaluate` writes."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from codec import Codec
from codec.cli import main
from codec.coding import PreparedCodec
from codec.evaluation import Metric, pesq, select_metrics, si_sdr_db, stft_distance
from codec.evaluation.baselines import code_with_opus, packet_bytes, possible_opus_bitrates
from codec.evaluation.rate_distortion import Measurement, evaluate_folder, score_clip, summarize
from codec.model_file import fingerprint, save_model
from codec_inputs import seanet_codec

CLIPS = Path(__file__).parents[3] / "data/clips/held_out"
SPEECH = CLIPS / "speech/new_world_fr_4.ogg"
SCORES = ["si_sdr_db", "visqol", "mel_distance", "stft_distance", "ripple_db", "stoi", "pesq"]
TINY: dict[str, Any] = {
    "filters": 4,
    "latent_dim": 16,
    "num_codebooks": 4,
    "codebook_size": 16,
    "lstm_layers": 1,
    "bandwidths_kbps": (0.6, 1.2),
}


def tiny_codec(**changes: Any) -> Codec:
    torch.manual_seed(1)
    codec = seanet_codec(**(TINY | changes)).eval()
    with torch.no_grad():
        latents = codec.encoder(torch.randn(1, codec.config.channels, 48_000))[0].t()
        codec.quantizer.initialize(latents, seed=0)
    return codec


@pytest.fixture
def audio_folder(tmp_path: Path) -> Path:
    """Two groups of 0.5 s clips whose sample rate and channels differ from the codec's."""
    folder = tmp_path / "audio"
    for number, name in enumerate(["music/a.wav", "music/b.wav", "speech/one/c.flac", "speech/d.ogg"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(number).standard_normal((24_000, 2))
        soundfile.write(folder / name, noise, 48_000)
    return folder


def test_packets_of_a_stream_that_crosses_pages() -> None:
    def page(lengths: list[int]) -> bytes:
        return b"OggS" + bytes(22) + bytes([len(lengths), *lengths]) + b"x" * sum(lengths)

    # 19 | 255 + 0, exactly 255 | 3 | 255 + 255 continued by 255 + 90.
    assert packet_bytes(page([19, 255, 0, 3, 255, 255]) + page([255, 90])) == [19, 255, 3, 855]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sample_rate", [24_000, 44_100])
def test_opus_keeps_length_and_alignment_and_improves_with_its_bitrate(channels: int, sample_rate: int) -> None:
    time = torch.arange(2 * sample_rate + 1) / sample_rate
    partials = [0.3 / k * torch.sin(2 * math.pi * k * (220 + 30 * time) * time) for k in range(1, 12)]
    audio = torch.stack(partials).sum(0).expand(channels, -1) * torch.tensor([[1.0], [0.6]])[:channels]
    results = [code_with_opus(audio, sample_rate, kbps * channels) for kbps in (6, 24, 96)]
    distances = [float(stft_distance(result.audio[None], audio[None])) for result in results]
    assert distances == sorted(distances, reverse=True)
    assert all(result.audio.shape == audio.shape for result in results)
    # A shift by one sample would leave 15 dB.
    assert float(si_sdr_db(results[-1].audio[None], audio[None])) > 20


def test_opus_bitrates_are_near_their_targets() -> None:
    audio, rate = soundfile.read(CLIPS / "music/muldjord_chaos_god.ogg", dtype="float32")
    mono = torch.from_numpy(audio.mean(1))[None, : 5 * rate]
    for kbps in (6, 12, 24, 64):
        result = code_with_opus(mono, rate, kbps)
        assert 8 * result.payload_bytes / 5000 == pytest.approx(kbps, rel=0.3)
        # Two headers of about 800 bytes, a byte of lacing per packet, and pages.
        assert 900 < result.file_bytes - result.payload_bytes < 1800


def test_impossible_opus_bitrates_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    possible, notes = possible_opus_bitrates([6.0, 12.0, 24.0], channels=2)
    assert possible == [12.0, 24.0]
    assert notes == ["Opus at 6 kbps is left out: libsndfile offers 6 to 256 kbps per channel, and the audio has 2"]
    with pytest.raises(ValueError, match="expected 6 to 256 kbps per channel, got 6 for 2 channels"):
        code_with_opus(torch.zeros(2, 960), 48_000, 6.0)
    monkeypatch.setattr(soundfile, "check_format", lambda *_: False)
    possible, notes = possible_opus_bitrates([6.0], channels=1)
    assert possible == []
    assert len(notes) == 1
    assert "Opus is left out: libsndfile" in notes[0]


def test_scores_equal_the_metrics() -> None:
    audio, rate = soundfile.read(SPEECH, dtype="float32", always_2d=True)
    reference = torch.from_numpy(audio.T.copy())[:, : 2 * rate]
    estimate = reference + 0.01 * torch.randn(reference.shape)
    scores = score_clip(estimate, reference, rate)
    assert list(scores) == SCORES
    assert scores["pesq"] == pytest.approx(float(pesq(estimate[None], reference[None], rate)))
    assert scores["si_sdr_db"] == pytest.approx(float(si_sdr_db(estimate[None], reference[None])))


@pytest.mark.parametrize(
    "changes",
    [{}, {"channels": 2, "causal": False, "norm": "time_group_norm", "normalize": True, "segment_seconds": 0.2}],
)
def test_measurements_match_the_files(audio_folder: Path, changes: dict[str, Any]) -> None:
    codec = tiny_codec(**changes)
    evaluation = evaluate_folder(PreparedCodec(codec), audio_folder, [0.6, 1.2], clips_per_group=5, seconds=0.4)
    ours = [m for m in evaluation.measurements if m.coder == "codec"]
    assert [(m.clip, m.group) for m in ours[::2]] == [
        ("music/a.wav", "music"),
        ("music/b.wav", "music"),
        ("speech/d.ogg", "speech"),
        ("speech/one/c.flac", "speech"),
    ]
    segments = math.ceil(0.4 / 0.198) if changes else 1
    for measurement in ours:
        num_codebooks = 2 if measurement.bandwidth_kbps == 0.6 else 4
        assert measurement.code_counts is not None
        frames = measurement.code_counts.sum(1)
        assert measurement.code_counts.shape == (num_codebooks, 16)
        assert measurement.seconds == 0.4
        if not changes:
            assert frames.tolist() == [30] * num_codebooks
        # Codes of 4 bits, and a scale of 4 bytes a segment. The file adds a header, and a frame for each block.
        side = 4 * segments if changes else 0
        assert int(frames.sum()) / 2 + side <= measurement.payload_bytes < int(frames.sum()) / 2 + side + segments
        assert 200 < measurement.file_bytes - measurement.payload_bytes < 400
    opus = [m for m in evaluation.measurements if m.coder == "opus"]
    assert {m.bandwidth_kbps for m in opus} == ({12.0, 24.0} if changes else {6.0, 12.0, 24.0})


def test_clips_are_evenly_spaced_and_omissions_are_noted(tmp_path: Path) -> None:
    tone = 0.2 * np.sin(np.arange(12_000) / 10)
    for number in range(7):
        soundfile.write(tmp_path / f"{number}.wav", tone, 24_000)
    evaluation = evaluate_folder(PreparedCodec(tiny_codec()), tmp_path, [0.6], clips_per_group=3, seconds=0.1)
    assert list(dict.fromkeys(m.clip for m in evaluation.measurements)) == ["0.wav", "2.wav", "4.wav"]
    assert {(m.group, m.seconds) for m in evaluation.measurements} == {("audio", 0.1)}
    assert evaluation.notes == [
        "3 of 7 files of audio were evaluated; --clips N evaluates more",
        "visqol is undefined for 3 of 3 clips, which its means leave out",
        "stoi is undefined for 3 of 3 clips, which its means leave out",
        "pesq is undefined for 3 of 3 clips, which its means leave out",
        "STOI, PESQ: meaningful for speech only",
    ]
    point = evaluation.points[0]
    assert (point.group, point.clips, point.undefined) == ("audio", 3, {"stoi": 3, "pesq": 3, "visqol": 3})
    assert math.isnan(point.scores["pesq"])
    for clips, seconds in ((0, 1.0), (1, 0.0), (1, math.inf), (1, math.nan)):
        with pytest.raises(ValueError, match="expected at least 1 clip and more than 0 s of it, got"):
            evaluate_folder(PreparedCodec(tiny_codec()), tmp_path, [0.6], clips, seconds)


def test_points_are_means_over_clips_and_bitrates_over_durations() -> None:
    codes = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    counts = torch.stack([row.bincount(minlength=4) for row in codes])
    measurements = [
        Measurement("x", "music", "codec", 1.5, 1.0, 100, 200, {"pesq": 2.0}, counts),
        Measurement("y", "music", "codec", 1.5, 3.0, 500, 600, {"pesq": math.nan}, counts),
        Measurement("z", "speech", "codec", 1.5, 1.0, 150, 250, {"pesq": 4.0}, counts),
        Measurement("z", "speech", "opus", 6.0, 1.0, 750, 1750, {"pesq": 3.0}, None),
    ]
    metrics = select_metrics(["pesq", "bitrate_efficiency"])
    music, speech, opus, every, every_opus = summarize(measurements, [4, 4], metrics)
    assert (music.clips, music.payload_kbps, music.file_kbps) == (2, 1.2, 1.6)
    assert (music.scores, music.undefined) == ({"pesq": 2.0, "bitrate_efficiency": 0.75}, {"pesq": 1})
    assert music.perplexity == pytest.approx([4.0, 2.0])
    assert (speech.group, speech.scores["pesq"]) == ("speech", 4.0)
    assert (opus.payload_kbps, opus.file_kbps, opus.perplexity) == (6.0, 14.0, [])
    assert math.isnan(opus.scores["bitrate_efficiency"])
    assert (every.group, every.clips, every.payload_kbps, every.scores["pesq"]) == ("all", 3, 1.2, 3.0)
    assert (every_opus.group, every_opus.coder) == ("all", "opus")


def test_the_command_prints_and_writes(audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "run" / "model.safetensors"
    model.parent.mkdir()
    codec = tiny_codec()
    save_model(codec, model)
    arguments = ["evaluate", "--model", str(model.parent), "--data", str(audio_folder)]
    assert main([*arguments, "--seconds", "0.3", "--beams", "2"]) == 0
    out = capsys.readouterr().out
    for word in ("music", "speech", "all", "codec 0.6", "codec 1.2", "opus 6", "opus 24", "ViSQOL"):
        assert word in out
    folder = model.parent / "evaluation"
    assert sorted(path.name for path in folder.iterdir()) == [
        "evaluation.csv",
        "evaluation.json",
        "rate_distortion.png",
    ]
    with (folder / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (2 + 3)
    assert list(rows[0])[-len(SCORES) :] == SCORES
    assert rows[0]["clip"] == "music/a.wav"
    assert rows[0]["visqol"] == ""
    content = json.loads((folder / "evaluation.json").read_text())
    assert content["fingerprint"] == fingerprint(codec)
    assert content["beams"] == 2
    assert [(p["group"], p["coder"], p["bandwidth_kbps"]) for p in content["points"]] == [
        (group, coder, kbps)
        for group in ("music", "speech", "all")
        for coder, kbps in (("codec", 0.6), ("codec", 1.2), ("opus", 6.0), ("opus", 12.0), ("opus", 24.0))
    ]
    mels = [float(row["mel_distance"]) for row in rows if row["coder"] == "codec" and row["bandwidth_kbps"] == "0.6"]
    assert content["points"][-5]["scores"]["mel_distance"] == pytest.approx(sum(mels) / 4)
    assert content["points"][0]["scores"]["visqol"] is None
    with Image.open(folder / "rate_distortion.png") as image:
        colors = image.convert("RGB").getcolors(1 << 24)
    assert colors is not None
    assert len(colors) > 100  # axes alone are a few greys


PEAK = Metric("peak", "peak difference", lambda e, r, _: (e - r).abs().amax((1, 2)), higher_is_better=False, digits=1)


def test_the_command_takes_a_metric_from_outside_the_packages(
    audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.safetensors"
    save_model(tiny_codec(), model)
    arguments = [
        "evaluate",
        "--model",
        str(model),
        "--data",
        str(audio_folder),
        "--seconds",
        "0.2",
        "--clips",
        "1",
    ]
    assert main([*arguments, "--metrics", "mel_distance", f"{__name__}:PEAK"]) == 0
    assert "peak" in capsys.readouterr().out
    with (tmp_path / "evaluation" / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-2:] == ["mel_distance", "peak"]
    assert float(rows[0]["peak"]) > 0
    assert main([*arguments, "--metrics", "vizqol"]) == 1
    assert "no metric vizqol; choose from " in capsys.readouterr().err


def test_errors_of_the_command(audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.safetensors"
    save_model(tiny_codec(), model)
    common = ["evaluate", "--model", str(model), "--output", str(tmp_path / "out"), "--seconds", "0.2"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for arguments, sentence in [
        (["--data", str(tmp_path / "no")], "there is no such folder"),
        (["--data", str(tmp_path / "empty")], "the folder is empty"),
        (["--data", str(audio_folder), "--bandwidths", "0.6", "3"], "0.6, 1.2 kbps, got 3"),
        (["--data", str(audio_folder), "--clips", "0"], "at least 1 clip"),
        (["--data", str(audio_folder), "--output", str(tmp_path / "file")], "file: File exists"),
    ]:
        assert main([*common, *arguments]) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "--model", str(model)])
    capsys.readouterr()
    (audio_folder / "music" / "broken.flac").write_bytes(b"fLaC and no more")
    assert main([*common, "--data", str(audio_folder), "--bandwidths", "1.2", "--clips", "1"]) == 1
    out, error = capsys.readouterr()
    assert "codec 1.2" in out
    assert "codec 0.6" not in out
    assert error.count("\n") == 1
    assert "music/broken.flac: not audio that libsndfile can read" in error
    assert (tmp_path / "out" / "evaluation.json").is_file()
