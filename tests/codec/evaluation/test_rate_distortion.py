"""The evaluation of a model, Opus and other codecs: bitrates, scores by group, and means."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from codec import Codec
from codec.coding import PreparedCodec
from codec.evaluation import METRICS, pesq, select_metrics, si_sdr_db, stft_distance
from codec.evaluation.baselines import code_with_opus, packet_bytes, possible_opus_bitrates
from codec.evaluation.coders import codec_coders, command_coders, opus_coders, recording
from codec.evaluation.markdown import markdown_tables
from codec.evaluation.rate_distortion import Evaluation, Measurement, evaluate_folder, score_clip, summarize
from evaluation_inputs import coding_codec, write_groups

CLIPS = Path(__file__).parents[3] / "data/clips/held_out"
SPEECH = CLIPS / "speech/new_world_fr_4.ogg"


@pytest.fixture
def audio_folder(tmp_path: Path) -> Path:
    return write_groups(tmp_path / "audio")


def evaluated(codec: Codec, folder: Path, bandwidths_kbps: list[float], **options: Any) -> Evaluation:
    config = codec.config
    coders = codec_coders(PreparedCodec(codec), bandwidths_kbps) + opus_coders(config.sample_rate, config.channels)[0]
    return evaluate_folder(folder, coders, config, **options)


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
    assert list(scores) == [name for name, metric in METRICS.items() if metric.domain != "codes"]
    assert scores["pesq"] == pytest.approx(float(pesq(estimate[None], reference[None], rate)))
    assert scores["si_sdr_db"] == pytest.approx(float(si_sdr_db(estimate[None], reference[None])))


@pytest.mark.parametrize(
    "changes",
    [{}, {"channels": 2, "causal": False, "norm": "time_group_norm", "normalize": True, "segment_seconds": 0.2}],
)
def test_measurements_match_the_files(audio_folder: Path, changes: dict[str, Any]) -> None:
    codec = coding_codec(**changes)
    evaluation = evaluated(codec, audio_folder, [0.6, 1.2], clips_per_group=5, seconds=0.4)
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
    evaluation = evaluated(
        coding_codec(),
        tmp_path,
        [0.6],
        clips_per_group=3,
        seconds=0.1,
        metrics=select_metrics(["stoi", "mel_distance"]),
    )
    assert list(dict.fromkeys(m.clip for m in evaluation.measurements)) == ["0.wav", "2.wav", "4.wav"]
    assert {(m.group, m.seconds) for m in evaluation.measurements} == {("audio", 0.1)}
    assert evaluation.notes == [
        "STOI: meaningful for speech only; --speech-groups names the groups",
        "3 of 7 files of audio were evaluated; --clips N evaluates more",
        "stoi is undefined for 3 of 3 clips, which its means leave out",
    ]
    point = evaluation.points[0]
    assert (point.group, point.clips, point.undefined) == ("audio", 3, {"stoi": 3})
    assert math.isnan(point.scores["stoi"])
    assert math.isfinite(point.scores["mel_distance"])
    for clips, seconds in ((0, 1.0), (1, 0.0), (1, math.inf), (1, math.nan)):
        with pytest.raises(ValueError, match="expected at least 1 clip and more than 0 s of it, got"):
            evaluated(coding_codec(), tmp_path, [0.6], clips_per_group=clips, seconds=seconds)


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
    music, speech, opus = summarize(measurements, [4, 4], metrics)
    assert (music.clips, music.payload_kbps, music.file_kbps) == (2, 1.2, 1.6)
    assert (music.scores, music.undefined) == ({"pesq": 2.0, "bitrate_efficiency": 0.75}, {"pesq": 1})
    assert music.perplexity == pytest.approx([4.0, 2.0])
    assert (speech.group, speech.scores["pesq"]) == ("speech", 4.0)
    assert (opus.group, opus.payload_kbps, opus.file_kbps, opus.perplexity) == ("speech", 6.0, 14.0, [])
    assert math.isnan(opus.scores["bitrate_efficiency"])


def test_intervals_are_those_of_student() -> None:
    scores = [1.0, 2.0, 4.0, math.nan]
    measurements = [
        Measurement(str(i), "a", "x", None, 1.0, None, None, {"pesq": s}, None) for i, s in enumerate(scores)
    ]
    point, *_ = summarize(measurements, [4], select_metrics(["pesq"]))
    # t(0.975, 2) = 4.3027 and the standard deviation is sqrt(7 / 3).
    assert point.intervals["pesq"] == pytest.approx(4.30265 * math.sqrt(7 / 3 / 3), rel=1e-5)
    assert math.isnan(summarize(measurements[:1], [4], select_metrics(["pesq"]))[0].intervals["pesq"])
    assert math.isnan(point.payload_kbps)
    assert math.isnan(point.file_kbps)


def test_the_tables_of_a_model_card() -> None:
    """By bitrate, a table for each group, and only metrics that have a score there."""
    measurements = [
        Measurement(name, group, coder, kbps, 1.0, size, size, scores, None)
        for name, group, coder, kbps, size, scores in (
            ("a", "my|speech", "codec", 6.0, 750, {"pesq": 2.0, "si_sdr_db": -1.25}),
            ("b", "my|speech", "codec", 6.0, 750, {"pesq": 3.0, "si_sdr_db": -1.25}),
            ("a", "my|speech", "opus", 6.0, 700, {"pesq": 2.25, "si_sdr_db": 1.0}),
            ("a", "my|speech", "recording", None, None, {"pesq": 4.5, "si_sdr_db": math.inf}),
            ("c", "music", "codec", 6.0, 750, {"si_sdr_db": 3.0}),
        )
    ]
    metrics = select_metrics(["pesq", "si_sdr_db"])
    points = summarize(measurements, [4], metrics)
    text = markdown_tables(Evaluation(measurements, points, metrics, ["a note"], []), {"data": "clips"})
    minus, unknown = "\N{MINUS SIGN}", "\N{EN DASH}"
    half = 12.7062 * math.sqrt(0.5 / 2)  # t(0.975, 1) times the standard error of 2 and 3
    assert text.splitlines()[1:] == [
        "",
        "### my|speech, 2 clips",
        "",
        "|  | kbit/s | PESQ ↑ | SI-SDR, dB ↑ |",
        "| --- | ---: | ---: | ---: |",
        f"| recording | {unknown} | 4.50 | {unknown} |",
        "| opus 6 | 5.60 | 2.25 | 1.00 |",
        f"| codec 6 | 6.00 | 2.50 ± {half:.2f} | {minus}1.25 ± 0.00 |",
        "",
        "### music, 1 clip",
        "",
        "|  | kbit/s | SI-SDR, dB ↑ |",
        "| --- | ---: | ---: |",
        "| codec 6 | 6.00 | 3.00 |",
        "",
        "- a note",
    ]


def test_metrics_of_speech_are_for_groups_of_speech(audio_folder: Path) -> None:
    codec = coding_codec()
    metrics = select_metrics(["si_sdr_db", "stoi"])

    def scored(**options: Any) -> dict[str, list[str]]:
        result = evaluate_folder(audio_folder, [recording()], codec.config, 1, 0.5, metrics, **options)
        return {m.group: list(m.scores) for m in result.measurements}

    both = ["si_sdr_db", "stoi"]
    assert scored() == {"music": ["si_sdr_db"], "speech": both}
    assert scored(speech_groups=["music"]) == {"music": both, "speech": ["si_sdr_db"]}
    with pytest.raises(ValueError, match="there is no group talk; the groups are music, speech"):
        scored(speech_groups=["talk"])


def test_another_codec_is_measured_by_its_command(tmp_path: Path) -> None:
    """The command halves the audio, keeps one channel, cuts the end, and calls a file of 100 bytes the encoded one."""
    audio = 0.2 * torch.randn(1, 24_000).clamp(-2, 2)
    script = tmp_path / "half speed.py"
    script.write_text(
        "import sys, soundfile\n"
        "audio, rate = soundfile.read(sys.argv[1])\n"
        "soundfile.write(sys.argv[2], audio[:-100] / float(sys.argv[4]), rate, format='WAV', subtype='FLOAT')\n"
        "open(sys.argv[3], 'wb').write(bytes(100))\n"
    )
    command = f"python3 '{script}' {{in}} {{out}} {{encoded}} {{kbps}}"
    _, four = command_coders(command.replace("python3", sys.executable), [2.0, 4.0], 24_000)
    assert (four.name, four.bandwidth_kbps) == (Path(sys.executable).name, 4.0)
    coded = four.code(audio)
    assert (coded.payload_bytes, coded.file_bytes) == (100, 100)
    expected = audio.clone() / 4
    expected[:, -100:] = 0
    torch.testing.assert_close(coded.audio, expected, rtol=0, atol=2**-15)
    (copy,) = command_coders("cp {in} {out}", [2.0, 4.0], 24_000)
    assert (copy.name, copy.bandwidth_kbps, copy.code(audio).file_bytes) == ("cp", None, None)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo no codec >&2; exit 3 {in} {out}", "exit status 3: no codec"),
        ("true {in} {out}", r"it made no \{out\}: no message"),
        ("true {in}", r"expected a command with \{in\} and \{out\}, got 'true \{in\}'"),
    ],
)
def test_a_command_that_fails_is_named(command: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command_coders(command, [6.0], 24_000)[0].code(torch.zeros(1, 100))
