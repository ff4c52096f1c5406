"""Mistakes of users give one clear line on the console, and corrupt files are skipped and counted."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from scripts.command_line import describe_error
from scripts.train import main, run

ROOT = Path(__file__).parents[2]
CLIPS = ROOT / "data" / "clips"
RATE = 24000

# Three steps of a codec of a few thousand parameters, with the full set of losses.
TINY = (
    "codec.network.filters=2",
    "codec.network.latent_dim=4",
    "adversarial.start_fraction=0",
    "discriminator.windows=[256]",
    "trainer.max_steps=3",
    "trainer.log_every=1",
    "trainer.validate_every=3",
    "trainer.checkpoint_every=3",
    "trainer.codebooks={start_fraction: 0, init_batches: 1}",
    "trainer.device=cpu",
    "trainer.precision=float32",
    "data.num_workers=0",
    "data.batch_size=2",
    "data.segment_seconds=0.2",
    "data.held_out={seconds: 0.2, clips_per_source: 1}",
    "name=bad",
)


def tiny(*overrides: str) -> list[str]:
    """TINY without its discriminator settings if the overrides choose another discriminator."""
    exchanged = any(item.startswith("discriminator=") for item in overrides)
    return [item for item in TINY if not (exchanged and item.startswith("discriminator."))]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing a report takes longer than these runs. The commands below write theirs."""
    monkeypatch.setattr("codec.training.logging.live_report.write_report", lambda folder, running: None)


def train(runs: Path, *overrides: str) -> Path:
    """Trains in this process; returns the run's folder."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        run(compose("train", [*tiny(*overrides), f"runs_folder={runs}", *overrides]))
    return runs / "bad"


def line_of(action: Callable[[], object]) -> str:
    """The line that is printed when `action` fails."""
    try:
        action()
    except Exception as error:
        line = describe_error(error)
        assert line
        assert "\n" not in line
        return line
    raise AssertionError("nothing was refused")


def refused(runs: Path, *overrides: str) -> str:
    line = line_of(lambda: train(runs, *overrides))
    assert not (runs / "bad" / "config.yaml").exists()  # so the name can be used again
    return line


def assert_trained(folder: Path) -> None:
    """Asserts that all three steps were done, none was skipped, and the model exists."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["split"] == "train"][-1]
    assert (last["step"], last["skipped_steps"]) == (3, 0)
    assert (folder / "model.safetensors").exists()


def skipped_files(folder: Path) -> dict[str, str]:
    lines = (folder / "skipped_files.txt").read_text().splitlines()
    return {Path(path).name: reason for path, reason in (line.split("\t") for line in lines)}


def noise(seconds: float, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (round(seconds * RATE), channels)).astype(np.float32)


def write(path: Path, audio: np.ndarray, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, RATE, **options)


def folder_of(path: Path, files: int = 4, seconds: float = 0.5) -> Path:
    for number in range(files):
        write(path / f"{number:02d}.wav", noise(seconds, seed=number))
    return path


def from_folder(root: Path) -> tuple[str, str]:
    return "data=folder", f"data.root={root}"


# ------------------------------------------------------------------------------------------------------ audio


def test_no_such_folder(tmp_path: Path) -> None:
    line = refused(tmp_path, *from_folder(tmp_path / "audoi"))
    assert line == f"{tmp_path}/audoi: expected a folder of audio, there is no such folder (in data.corpus)"


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    assert "the folder is empty" in refused(tmp_path, *from_folder(tmp_path / "audio"))


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(3):
        (tmp_path / "audio" / f"{number}.txt").write_text("not audio")
    assert "no audio among its files (wav, flac" in refused(tmp_path, *from_folder(tmp_path / "audio"))


def test_text_files_named_wav(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(3):
        (tmp_path / "audio" / f"{number}.wav").write_text("not audio")
    line = refused(tmp_path, *from_folder(tmp_path / "audio"))
    assert "none of its 3 audio files can be used: 0.wav and 2 more: not audio that libsndfile can read" in line


def test_a_single_file_cannot_be_split(tmp_path: Path) -> None:
    line = refused(tmp_path, *from_folder(folder_of(tmp_path / "audio", files=1)))
    assert "at least two files of a source to hold one out, got 1" in line


def test_a_tenth_of_the_files_is_damaged(tmp_path: Path) -> None:
    """One has an invalid header. The other is truncated, which only decoding detects."""
    audio = folder_of(tmp_path / "audio", files=18)
    (audio / "18.wav").write_bytes(b"RIFF" + bytes(1000))
    write(audio / "19.flac", noise(60))
    whole = (audio / "19.flac").read_bytes()
    (audio / "19.flac").write_bytes(whole[: len(whole) // 50])
    folder = train(tmp_path, *from_folder(audio), "data.batch_size=8")
    assert_trained(folder)
    assert set(skipped_files(folder)) == {"18.wav", "19.flac"}
    assert "skipped file 2: " in (folder / "log.txt").read_text()


def test_a_file_of_three_samples_among_others(tmp_path: Path) -> None:
    audio = folder_of(tmp_path / "audio")
    write(audio / "short.wav", noise(3 / RATE))
    folder = train(tmp_path, *from_folder(audio))
    assert_trained(folder)
    assert skipped_files(folder) == {"short.wav": "3 frames, 0.000 s, is below 0.1 s"}


def test_nothing_but_files_of_three_samples(tmp_path: Path) -> None:
    audio = folder_of(tmp_path / "audio", seconds=3 / RATE)
    line = refused(tmp_path, *from_folder(audio))
    assert "none of its 4 audio files can be used: 00.wav and 3 more: 3 frames, 0.000 s, is below 0.1 s" in line
    assert_trained(train(tmp_path, *from_folder(audio), "data.corpus.minimum_seconds=0"))


def test_a_folder_of_silence(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "audio" / f"{number}.wav", np.zeros((RATE, 1), np.float32))
    assert "the held-out files is silent: hold out others" in refused(tmp_path, *from_folder(tmp_path / "audio"))


@pytest.mark.parametrize("settings", [("codec=starter",), ("codec=encodec_48khz", "trainer.init=random")])
def test_training_on_silence_alone_stays_finite(settings: tuple[str, ...], tmp_path: Path) -> None:
    """encodec_48khz divides by the RMS of a segment, and silence has no principal components for the starter's init."""
    write(tmp_path / "audio" / "silence.wav", np.zeros((RATE, 1), np.float32))
    corpus = (f"data.corpus.train={tmp_path / 'audio'}", f"data.corpus.held_out={CLIPS / 'held_out.jsonl'}")
    assert_trained(train(tmp_path, *settings, "data=manifest", *corpus))


def test_nan_samples_in_one_file(tmp_path: Path) -> None:
    audio = folder_of(tmp_path / "audio")
    samples = noise(20)
    samples[::100] = np.nan
    write(audio / "nan.wav", samples, subtype="FLOAT")
    folder = train(tmp_path, *from_folder(audio))
    assert_trained(folder)
    assert set(skipped_files(folder)) == {"nan.wav"}


def test_nan_samples_everywhere(tmp_path: Path) -> None:
    write(tmp_path / "audio" / "nan.wav", np.full((RATE, 1), np.nan, np.float32), subtype="FLOAT")
    held_out = f"data.corpus.held_out={CLIPS / 'held_out.jsonl'}"
    with pytest.raises(ValueError, match="most of the corpus is corrupt") as caught:
        train(tmp_path, "data=manifest", f"data.corpus.train={tmp_path / 'audio'}", held_out)
    assert "nan.wav: has a sample that is NaN or infinite, the first at frame" in describe_error(caught.value)
    assert "Traceback" in (tmp_path / "bad" / "log.txt").read_text()


def test_eight_channels_into_a_mono_codec(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "audio" / f"{number}.wav", noise(0.5, channels=8, seed=number))
    assert_trained(train(tmp_path, *from_folder(tmp_path / "audio")))


# ----------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (
            ["codec=encodec_24hkz"],
            "there is no codec=encodec_24hkz, expected one of audiocraft_16khz, audiocraft_24khz",
        ),
        (["codecs=starter"], "there is no setting codecs, expected one of name, runs_folder, seed"),
        (["trainer.sed=1"], "there is no setting trainer.sed, expected one of _target_, max_steps"),
        (
            ["codec.network.filterss=3"],
            "there is no setting codec.network.filterss, expected one of _target_, channels",
        ),
        (["+codec.network.filterss=3"], "unexpected keyword argument 'filterss' (in codec.network)"),
        (
            ["+data.wrokers=3"],
            "there is no setting data.wrokers, expected one of root, corpus, dataset, transforms",
        ),
        (["+tariner.max_steps=3"], "there is no setting tariner, expected one of name"),
        (["steps"], "expected group=name or path.to.key=value, got 'steps'"),
        (["experiment=null"], "expected the name of a file for a group, got null"),
        (["name=null"], "the run has no name: set name=..., or choose an experiment"),
        (["name=''"], "the run has no name: set name=..., or choose an experiment"),
        (["losses.terms.l1._target_=losses.L3"], "Error loading 'losses.L3'"),
        (
            ["discriminator=none"],
            "losses l1, mel, tonality (no discriminator) and weights l1, mel, adversarial, feature_matching, tonality",
        ),
        (
            ["+losses.weights.mell=1"],
            "losses l1, mel, tonality, adversarial, feature_matching and weights l1, mel, adversarial, "
            "feature_matching, tonality, mell",
        ),
        (["~losses.weights.mel"], "and weights l1, adversarial, feature_matching"),
        (["losses.weights={l1: 1, mel: -1}"], "got {'l1': 1, 'mel': -1"),
        (
            ["data.segment_seconds=0.03", "losses.terms.mel.window_exponents=[5]"],
            "tonality needs segments of at least 4096 samples, got 720: raise data.segment_seconds",
        ),
        (["data.segment_seconds=0.02"], "mel needs segments of at least 2048 samples, got 480"),
        (
            [
                "data.segment_seconds=0.01",
                "losses.terms.mel.window_exponents=[5]",
                "~losses.terms.tonality",
                "~losses.weights.tonality",
            ],
            "the discriminator needs segments of at least 256 samples, got 240: raise data.segment_seconds",
        ),
        (
            ["validation.bandwidth_kbps=13"],
            "validation.bandwidth_kbps: a bandwidth of 13.0 kbps needs 17.3 codebooks of 0.75 kbps, but this codec has "
            "1 to 16",
        ),
        (["codec.bandwidths_kbps=[24]"], "needs 32 codebooks of 0.75 kbps, but this codec has 1 to 16"),
        (
            ["trainer.init=random", "trainer.encoder_lr_factor=0"],
            "trainer.encoder_lr_factor=0 would freeze an encoder of random weights",
        ),
        (["codec.quantizer.codebook_size=1000"], "got 1000 (in codec.quantizer)"),
        (["trainer.device=gpu"], "trainer.device=gpu is not available: expected auto, cpu"),
        (["trainer.max_minutes=1"], "must be set, got {'max_steps': 3, 'max_minutes'"),
        (["adversarial.update_probability=0"], "update_probability must be in (0, 1], got 0"),
        (["checkpoints.keep_last=0"], "keep_last must be 1 or more, got 0"),
    ],
)
def test_mistakes_in_the_configuration(overrides: list[str], wanted: str, tmp_path: Path) -> None:
    assert wanted in refused(tmp_path, "data=clips", *overrides)


def test_mistakes_in_the_configuration_are_found_before_the_audio_is_read(tmp_path: Path) -> None:
    missing = from_folder(tmp_path / "nowhere")
    for override, wanted in (
        ("+losses.weights.mell=1", "mell"),
        ("data.segment_seconds=0.02", "got 480"),
        ("validation.bandwidth_kbps=13", "13.0 kbps"),
        ("trainer.device=gpu", "gpu"),
        ("+data.wrokers=3", "wrokers"),
    ):
        assert wanted in refused(tmp_path, *missing, override)


def test_an_experiment_without_a_name(tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", ["experiment=none", "data=clips", f"runs_folder={tmp_path}"])
    with pytest.raises(ValueError, match=r"the run has no name: set name="):
        run(cfg)
    assert not list(tmp_path.iterdir())


def test_a_name_may_be_a_number(tmp_path: Path) -> None:
    train(tmp_path, "data=clips", "name=7")
    assert_trained(tmp_path / "7")


def test_the_folder_of_a_run_with_other_settings(tmp_path: Path) -> None:
    folder = train(tmp_path, "data=clips", "losses.weights.mel=1")
    assert_trained(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds a run with other settings") as caught:
        train(
            tmp_path,
            "data=clips",
            "seed=1",
            "losses.weights.mel=3",
            "trainer.gradient_clip_norm=1",
            "data.batch_size=3",
        )
    assert describe_error(caught.value) == (
        f"{folder} holds a run with other settings (seed was 0, is 1; losses.weights.mel was 1, is 3; "
        "balancer.weights.mel was 1, is 3; ...): choose another name=, or move that folder away"
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_can_be_moved_and_extended(tmp_path: Path) -> None:
    train(tmp_path, "data=clips", "trainer.max_steps=2")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bad").rename(tmp_path / "elsewhere" / "moved")
    train(tmp_path / "elsewhere", "data=clips", "name=moved", "data.num_workers=1")
    assert_trained(tmp_path / "elsewhere" / "moved")


def test_the_runs_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    line = line_of(lambda: train(tmp_path / "runs", "data=clips"))
    assert "Not a directory" in line
    assert str(tmp_path / "runs") in line


# ------------------------------------------------------------------------------------------------ the command


def command(*overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    return subprocess.run(
        [sys.executable, "-m", "scripts.train", *TINY, *overrides],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_command_prints_one_line_and_exits_with_1(tmp_path: Path) -> None:
    """For an error of Hydra and for an error of the run."""
    (tmp_path / "empty").mkdir()
    for overrides, line in (
        (["trainer.sed=1"], "there is no setting trainer.sed, expected one of _target_, max_steps, max_epochs"),
        (from_folder(tmp_path / "empty"), f"{tmp_path}/empty: the folder is empty (in data.corpus)"),
    ):
        done = command(f"runs_folder={tmp_path / 'runs'}", *overrides)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {line}")
        assert len(done.stderr.splitlines()) == 1
    assert "Traceback" in (tmp_path / "runs" / "bad" / "log.txt").read_text()


def test_hydra_full_error_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["train", "trainer.sed=1"])
    with pytest.raises(HydraException, match="Could not override"):
        main()


def test_ctrl_c_says_how_to_resume(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr("scripts.train.run", interrupted)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "stopped; run the same command again to resume from the last checkpoint\n"


@pytest.mark.slow
def test_without_apt_the_command_trains_on_the_bundled_clips(tmp_path: Path) -> None:
    done = command(
        *("data=starter", f"data.root={tmp_path / 'starter'}", f"runs_folder={tmp_path / 'runs'}"),
        PATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "data=starter is not available (there is no apt-get on this machine)" in done.stderr
    for place in ("model.safetensors", "checkpoints", "samples", "report.html"):
        assert str(tmp_path / "runs" / "bad" / place) in done.stdout
    assert_trained(tmp_path / "runs" / "bad")
