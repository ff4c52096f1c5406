"""`codec tokenize` and `codec detokenize`: real audio, real models, processes killed for real."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from codec.bitstream import BitstreamReader
from codec.bitstream.byte_source import ByteSource
from codec.commands import tokenize as command
from codec.model_file import load_model
from codec.tokens import Card, read_tokens
from codec.tokens.windows import encode_windows
from coding_inputs import ROOT, noise, run_codec, save_tiny, write_wav

# Samples and rate of each file; the first is shorter than a frame, and the last has many steps of a stream.
FILES = {"a.wav": (7, 24_000), "b/c.wav": (9_600, 24_000), "b/d.wav": (9_601, 16_000), "b/e.wav": (70_000, 24_000)}


@pytest.fixture
def audio(here: Path) -> Path:
    """A folder of audio in the working folder."""
    for name, (samples, sample_rate) in FILES.items():
        (here / "audio" / name).parent.mkdir(parents=True, exist_ok=True)
        write_wav(here / "audio" / name, noise(samples), sample_rate)
    return here / "audio"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored_codes(path: Path) -> np.ndarray:
    """The codes of an encoded file [K, F]."""
    with path.open("rb") as file:
        return np.concatenate([block.codes for block in BitstreamReader(ByteSource(file), str(path)).blocks()], 1)


@pytest.mark.parametrize("kind", ["causal", "segments", "whole"])
def test_codes_and_audio_are_those_of_encode_and_decode(here: Path, audio: Path, kind: str) -> None:
    model = save_tiny(kind, here)
    assert run_codec("tokenize", audio, "tokens", "--jobs", "1", "--shard-size", "3", "--model", model) == 0
    assert run_codec("detokenize", "tokens", "back", "--jobs", "1", "--model", model) == 0
    assert [tokens.line["path"] for tokens in read_tokens(here / "tokens")] == list(FILES)
    for tokens in read_tokens(here / "tokens"):
        name = tokens.line["path"]
        assert run_codec("encode", audio / name, "-f", "-o", "one.ecdc", "--coding", "fixed", "--model", model) == 0
        assert run_codec("decode", "one.ecdc", "-f", "-o", "one.wav", "--model", model) == 0
        np.testing.assert_array_equal(tokens.codes, stored_codes(here / "one.ecdc"))
        (back, back_rate), (one, rate) = soundfile.read(here / "back" / name), soundfile.read(here / "one.wav")
        assert back_rate == rate
        assert len(one) == tokens.line["samples"]
        assert back.shape == one.shape
        assert np.abs(back - one).max() <= 1 / 32768  # steps of a stream round differently in float32


def test_beams_and_bitrate(here: Path, audio: Path) -> None:
    model = save_tiny("causal", here, bandwidths_kbps=(1.2, 2.4))
    options = ("--beams", "2", "--model", model)
    assert run_codec("tokenize", audio, "tokens", "--jobs", "1", "-b", "1.2", *options) == 0
    assert run_codec("encode", "audio/b/e.wav", "-o", "e.ecdc", "--coding", "fixed", "--bitrate", "1.2", *options) == 0
    with np.load(here / "tokens/tokens-00000.npz") as arrays:
        assert arrays.files == ["00000000", "00000001", "00000002", "00000003"]
        assert arrays["00000003"].dtype == np.uint16
        np.testing.assert_array_equal(arrays["00000003"], stored_codes(here / "e.ecdc"))
    card = Card.load(here / "tokens/dataset.json")
    assert (card.num_codebooks, card.kbps, card.frame_rate_hz, card.beams) == (4, 1.2, 75.0, 2)
    assert card.seconds == pytest.approx(sum(samples / rate for samples, rate in FILES.values()), abs=1e-3)
    assert card.command.startswith(f"codec tokenize {audio} tokens")


def test_quiet_and_verbose(here: Path, audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny("causal", here)
    commands = (("tokenize", audio, "tokens"), ("detokenize", "tokens", "back"))
    for line in commands:
        assert run_codec(*line, "--jobs", "1", "--model", model, "-q") == 0
        assert capsys.readouterr() == ("", "")
    for line in commands:
        assert run_codec(*line, "-f", "--jobs", "1", "--model", model, "-v") == 0
        printed = capsys.readouterr()
        assert f"{len(FILES)} file" in printed.out
        assert all(word in printed.err for word in ("causal", "cpu", "2.4 kbit/s", "npz"))


def test_several_processes_write_the_same_bytes(here: Path, audio: Path) -> None:
    model = save_tiny("segments", here)
    options = ("--format", "parquet", "--model", model)
    assert run_codec("tokenize", audio, "tokens", "--jobs", "1", *options) == 0
    one = contents(here / "tokens")
    assert run_codec("tokenize", audio, "tokens", "--jobs", "2", *options, "--force") == 0
    assert contents(here / "tokens") == one
    assert run_codec("detokenize", "tokens", "back", "--jobs", "1", "--model", model) == 0
    assert run_codec("detokenize", "tokens", "again", "--jobs", "2", "--model", model) == 0
    for name in FILES:
        assert (here / "again" / name).read_bytes() == (here / "back" / name).read_bytes()


@pytest.mark.parametrize(("kind", "jobs"), [("causal", 1), ("segments", 2)])
def test_batches_of_a_gpu_have_the_codes_of_single_files(
    here: Path, audio: Path, kind: str, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU, on the CPU. In float32 rounding may change a code; test_batches.py compares in float64."""
    model = save_tiny(kind, here)
    (audio / "broken.wav").write_bytes(b"RIFF")
    write_wav(audio / "silence.wav", np.zeros((0, 1), np.float32))
    monkeypatch.setattr("codec.tokens.windows._LONG_SECONDS", 2.0)  # the last file is encoded while it is read
    entries = list(command.folder_entries(audio))
    prepared = command.PreparedCodec(load_model(Path(model) / "model.safetensors"))
    singly = [command._encode(prepared, 2.4, entry.path) for entry in entries]
    results = list(encode_windows(prepared, entries, 2.4, 60.0, jobs))
    assert len(results) == len(singly) == 6
    for one, other in zip(results, singly, strict=True):
        assert type(one) is type(other)
        if isinstance(one, command.Failure):
            assert one == other
        else:
            assert isinstance(other, command.Tokens)
            assert (one.samples, one.notes) == (other.samples, other.notes)
            assert (one.codes.dtype, one.codes.shape) == (other.codes.dtype, other.codes.shape)
            assert np.count_nonzero((one.codes != other.codes).any(0)) <= 1
            assert (one.gains is None) == (other.gains is None)
            if one.gains is not None:
                np.testing.assert_allclose(one.gains, other.gains, rtol=1e-5)


def test_a_manifest_with_text(here: Path, audio: Path) -> None:
    lines = [{"path": "audio/b/c.wav", "text": "hello", "sample_rate": 24_000.0}, {"path": str(audio / "a.wav")}]
    (here / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = save_tiny("causal", here)
    assert run_codec("tokenize", "list.jsonl", "tokens", "--jobs", "1", "--model", model) == 0
    first, second = (tokens.line for tokens in read_tokens(here / "tokens"))
    assert (first["text"], first["input_sample_rate"], first["sample_rate"]) == ("hello", 24_000.0, 24_000)
    assert "text" not in second
    assert run_codec("detokenize", "tokens", "back", "--jobs", "1", "--model", model) == 0
    assert soundfile.info(here / "back/audio/b/c.wav").frames == 9_600
    assert soundfile.info(here / "back" / audio.relative_to("/") / "a.wav").frames == 7


def test_files_that_cannot_be_read_are_listed_and_the_rest_is_kept(
    here: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (audio / "b/bad.wav").write_bytes(b"no audio")
    (audio / "b/film.m4a").write_bytes(b"no audio")
    write_wav(audio / "odd.wav", noise(640))
    (audio / "odd.wav").rename(os.fsdecode(os.fsencode(audio) + b"/caf\xe9.wav"))
    model = save_tiny("causal", here)
    command_line = ("tokenize", audio, "tokens", "--jobs", "1", "--model", model)
    assert run_codec(*command_line) == 1
    printed = capsys.readouterr()
    assert "5 files" in printed.out
    assert "b/bad.wav" in printed.err
    failed = [json.loads(line) for line in (here / "tokens/failed.jsonl").read_text().splitlines()]
    assert sorted(line["path"] for line in failed) == ["b/bad.wav", "b/film.m4a"]
    assert all(line["reason"] for line in failed)
    assert len(list(read_tokens(here / "tokens"))) == 5
    assert run_codec(*command_line) == 1  # complete: says the same again
    assert "5 files" in capsys.readouterr().out
    assert run_codec("detokenize", "tokens", "back", "--jobs", "1", "--model", model) == 0
    assert os.fsencode(here) + b"/back/caf\xe9.wav" in map(os.fsencode, (here / "back").iterdir())


# `codec` as a process that waits when the seventh file is in the third shard, which is then unfinished.
WAITING = """
import sys, time
from codec.cli import main
from codec.commands.token_progress import FileProgress

add = FileProgress.add

def wait(self, seconds):
    add(self, seconds)
    if self.files == 7:
        print("ready", flush=True)
        time.sleep(1e6)

FileProgress.add = wait
main(sys.argv[1:])
"""


def test_a_killed_run_is_resumed(here: Path, audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is encoded twice but the unfinished shard, and no process of --jobs is left."""
    for i in range(6):
        write_wav(audio / f"{i}.wav", noise(1_000 + i))
    line = ("tokenize", str(audio), "tokens", "--shard-size", "3", "--model", save_tiny("causal", here))
    assert run_codec(*line, "--jobs", "1") == 0
    whole = contents(here / "tokens")
    for path in (here / "tokens").iterdir():
        path.unlink()

    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        [sys.executable, "-c", WAITING, *line, "--jobs", "2"],
        stdout=subprocess.PIPE, env=environment, text=True, start_new_session=True,
    )  # fmt: skip
    assert killed.stdout is not None
    assert any("ready" in printed for printed in killed.stdout)
    assert len(_processes(killed.pid)) > 2
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    killed.stdout.close()
    while _processes(killed.pid):
        time.sleep(0.01)
    names = sorted(path.name for path in (here / "tokens").iterdir() if not path.name.endswith(".partial"))
    assert names == ["dataset.json"] + [f"tokens-0000{i}.{suffix}" for i in (0, 1) for suffix in ("jsonl", "npz")]
    before = {path: path.stat().st_mtime_ns for path in (here / "tokens").glob("*.npz")}

    encoded: list[Path] = []
    original = command.encode_tokens
    monkeypatch.setattr(command, "encode_tokens", lambda *given: (encoded.append(given[1]), original(*given))[1])
    assert run_codec(*line, "--jobs", "1") == 0
    assert [path.relative_to(audio).as_posix() for path in encoded] == ["a.wav", *list(FILES)[1:]]
    assert contents(here / "tokens") == whole
    assert {path: path.stat().st_mtime_ns for path in before} == before


def _processes(group: int) -> list[int]:
    """The processes of a process group that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("missing", "tokens"), "missing"),
        (("audio/a.wav", "tokens"), "folder or a manifest"),
        (("audio", "audio"), "other files"),
        (("audio", "tokens", "--jobs", "0"), "--jobs"),
        (("audio", "tokens", "-b", "5"), "2.4"),
        (("audio", "tokens", "--batch-seconds", "0"), "--batch-seconds"),
        (("empty", "tokens"), "found none"),
    ],
)
def test_wrong_arguments(here: Path, audio: Path, fails: Any, arguments: tuple[str, ...], named: str) -> None:
    (here / "empty").mkdir()
    assert named in fails("tokenize", *arguments, "--model", save_tiny("causal", here))


def test_a_wrong_shard_size_is_wrong_usage(here: Path, audio: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        run_codec("tokenize", audio, "tokens", "--shard-size", "none")
    assert caught.value.code == 2


def test_parquet_without_pyarrow(here: Path, audio: Path, fails: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "setup.sh tokens" in fails("tokenize", audio, "tokens", "--format", "parquet")
    assert not (here / "tokens").exists()


def test_detokenize_needs_the_model_of_the_tokens(here: Path, audio: Path, fails: Any) -> None:
    model, other = save_tiny("causal", here), save_tiny("causal_constant", here)
    assert run_codec("tokenize", audio, "tokens", "--jobs", "1", "--model", model) == 0
    fingerprint = Card.load(here / "tokens/dataset.json").model
    assert fingerprint in fails("detokenize", "tokens", "back", "--model", other)
    assert "not a folder of tokens" in fails("detokenize", "audio", "back", "--model", model)
    assert not (here / "back").exists()


def test_detokenize_replaces_files_only_if_told(here: Path, audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny("causal", here)
    soundfile.write(audio / "b/c.flac", noise(500), 24_000)  # the same output as b/c.wav
    assert run_codec("tokenize", audio, "tokens", "--jobs", "1", "--model", model) == 0
    (here / "back").mkdir()
    (here / "back/a.wav").write_bytes(b"mine")
    line = ("detokenize", "tokens", "back", "--jobs", "1", "--model", model)
    capsys.readouterr()
    assert run_codec(*line) == 1
    errors = capsys.readouterr().err
    assert "a.wav exists" in errors
    assert "b/c.wav: another file has the same output" in errors
    assert (here / "back/a.wav").read_bytes() == b"mine"
    assert soundfile.info(here / "back/b/c.wav").frames == 500
    assert run_codec(*line, "-f") == 1
    assert soundfile.info(here / "back/a.wav").frames == 7


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"path": "../../out.wav"}, None),
        ({"path": "/"}, None),
        ({"samples": 100_000}, "shape"),
        ({"samples": 10**15}, "shape"),
    ],
)
def test_a_manifest_of_a_stranger(here: Path, audio: Path, change: dict[str, Any], reason: str | None) -> None:
    model = save_tiny("causal", here)
    assert run_codec("tokenize", audio, "tokens", "--jobs", "1", "--model", model) == 0
    manifest = here / "tokens/manifest.jsonl"
    first, *rest = manifest.read_text().splitlines()
    manifest.write_text("\n".join([json.dumps(json.loads(first) | change), *rest]))
    before = set(here.iterdir())
    status = run_codec("detokenize", "tokens", "back", "--jobs", "1", "--model", model)
    assert status == (0 if reason is None else 1)
    assert set(here.iterdir()) - before == {here / "back"}
    assert len(list((here / "back").rglob("*.wav"))) == (4 if reason is None else 3)


def test_the_python_of_the_document(here: Path, audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny("causal", here / "runs")
    (here / "runs/causal").rename(here / "runs/starter")
    (here / "list.jsonl").write_text('{"path": "audio/b/c.wav", "text": "hello"}')
    for form, folder in (("npz", "tokens"), ("parquet", "tokens_parquet")):
        line = ("tokenize", "list.jsonl", folder, "--format", form, "--jobs", "1", "--model", "runs/starter")
        assert run_codec(*line) == 0
    text = (ROOT / "docs/tokens.md").read_text(encoding="utf-8")
    codes = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (with_datasets,) = [code for code in codes if "from datasets" in code]
    codes.remove(with_datasets)
    compile(with_datasets, "datasets", "exec")  # the package is not installed
    results = []
    capsys.readouterr()
    for code in codes:
        (here / "code.py").write_text(code)
        results.append(runpy.run_path(str(here / "code.py")))
    assert capsys.readouterr().out == 2 * "(8, 30) uint16 hello\n"
    assert results[-1]["audio"].shape == (1, 1, 9_600)
