"""`codec encode - -` and `codec decode - -`, in this process and in forks."""

import io
import json
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, NamedTuple

import numpy as np
import pytest
import soundfile

from bitstream_inputs import Pipe
from codec.cli import main
from coding_inputs import save_tiny
from forks import Forks, Program

HOP = 320
BLOCK_BYTES = 6 + 8 * 4 // 8 + 4  # of one frame: lengths, 8 codes of 4 bits, checksum
RANDOM_ACCESS_BYTES = 8  # number of the first frame, only at a random access point: here, the first block


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    return {kind: save_tiny(kind, folder) for kind in ("causal", "segments")}


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype("<f4")


class Run(NamedTuple):
    status: int
    out: bytes
    error: str


Runner = Callable[..., Run]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Runs the command in this process. Its standard streams are pipes, or an open file as input."""

    def run(arguments: list[str], data: bytes | IO[bytes]) -> Run:
        out = Pipe()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdin", SimpleNamespace(buffer=Pipe(data) if isinstance(data, bytes) else data))
            # Only data may be written to it.
            patch.setattr("sys.stdout", SimpleNamespace(buffer=out, flush=lambda: None))
            status = main(arguments)
        return Run(status, out.getvalue(), capsys.readouterr().err)

    return run


def test_pipes_give_the_same_bytes_as_files(run: Runner, runs: dict[str, str], tmp_path: Path) -> None:
    model = ["--model", runs["causal"]]
    audio = noise(70_001)
    soundfile.write(tmp_path / "in.wav", audio, 24_000, subtype="FLOAT")
    source, encoded_file, back_file = (str(tmp_path / name) for name in ("in.wav", "out.ecdc", "back.wav"))
    assert (
        main(["encode", source, "-f", "-o", encoded_file, *model])
        == main(["decode", encoded_file, "-f", "-o", back_file, *model])
        == 0
    )

    encoded = (tmp_path / "out.ecdc").read_bytes()
    assert run(["encode", "-", "-o", "-", *model], (tmp_path / "in.wav").read_bytes())[1] == encoded
    status, out, error = run(["encode", "-", "-o", "-", "--raw", "24000:1:f32le", *model], audio.tobytes())
    assert (status, out) == (0, encoded)
    assert error.startswith("-: 2.92 s, ")
    assert error.count("\n") == 1

    back, _ = soundfile.read(tmp_path / "back.wav", dtype="int16")
    status, out, error = run(["decode", "-", "-o", "-", *model], encoded)
    piped, rate = soundfile.read(io.BytesIO(out), dtype="int16")
    assert (status, rate, error.count("\n")) == (0, 24_000, 1)
    np.testing.assert_array_equal(piped, back)
    out = run(["decode", "-", "-o", "-", "--raw", "s16le", *model], encoded)[1]
    np.testing.assert_array_equal(np.frombuffer(out, "<i2"), back)


def test_pipes_work_for_a_codec_with_segments(run: Runner, runs: dict[str, str]) -> None:
    model = ["--model", runs["segments"]]
    status, encoded, _ = run(["encode", "-", "-o", "-", "--raw", "48000:2:f32le", *model], noise(2 * 60_000).tobytes())
    assert status == 0
    status, out, _ = run(["decode", "-", "-o", "-", "--raw", "f32le", *model], encoded)
    assert (status, len(out)) == (0, 60_000 * 8)


def header_of(stream: IO[bytes]) -> bytes:
    start = stream.read(9)
    text = stream.read(struct.unpack(">I", start[5:])[0])
    assert json.loads(text)["hop_samples"] == HOP
    return start + text + stream.read(4)


@contextmanager
def killed_if_stuck(*processes: Program) -> Iterator[None]:
    """Kills the processes after 600 s, so that a test fails instead of hanging."""
    timers = [threading.Timer(600, process.kill) for process in processes]
    for timer in timers:
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for process in processes:
            process.kill()
            process.close()
            process.wait()


def test_each_frame_is_written_before_the_next_sample_is_read(runs: dict[str, str], forks: Forks) -> None:
    """An encoder and a decoder get one frame at a time. The next frame is sent when this one has been written.

    With reflection padding, output starts after six frames. With constant padding there is no such delay.
    """
    waiting = 6
    model = ["--model", runs["causal"]]
    audio = noise(12 * HOP)
    encoder = forks.codec("encode", "-", "-o", "-", "--raw", "24000:1:f32le", "--block-frames", "1", *model)
    decoder = forks.codec("decode", "-", "-o", "-", "--raw", "f32le", "--whole-frames", *model)
    with killed_if_stuck(encoder, decoder):
        header = header_of(encoder.stdout)
        decoder.stdin.write(header)
        decoded = b""
        for frame in range(12):
            encoder.stdin.write(audio[frame * HOP : (frame + 1) * HOP].tobytes())
            encoder.stdin.flush()
            frames = 0 if frame < waiting else 1 + waiting if frame == waiting else 1
            size = frames * BLOCK_BYTES + (RANDOM_ACCESS_BYTES if frame == waiting else 0)
            blocks = encoder.stdout.read(size)
            assert len(blocks) == size
            decoder.stdin.write(blocks)
            decoder.stdin.flush()
            decoded += decoder.stdout.read(frames * HOP * 4)
            assert len(decoded) == (0 if frame < waiting else frame + 1) * HOP * 4
        rest, messages = encoder.communicate()
        assert decoder.communicate(rest)[0] == b""
        assert (encoder.returncode, decoder.returncode) == (0, 0)
        overhead = len(header) + 12 * 10 + RANDOM_ACCESS_BYTES + len(rest)
        assert f"{overhead} of the bytes are headers and checksums of 12 blocks\n" in messages.decode()


def test_whole_frames_report_the_additional_samples(run: Runner, runs: dict[str, str]) -> None:
    model = ["--model", runs["causal"]]
    encoded = run(["encode", "-", "-o", "-", "--raw", "24000:1:f32le", *model], noise(1000).tobytes())[1]
    status, out, error = run(["decode", "-", "-o", "-", "--raw", "s16le", "--whole-frames", *model], encoded)
    assert (status, len(out)) == (0, 2 * 1280)
    assert error.endswith("; 280 samples more than were encoded\n")


def test_a_closed_output_pipe_ends_the_command_without_a_message(
    run: Runner, runs: dict[str, str], forks: Forks
) -> None:
    model = ["--model", runs["causal"]]
    encoded = run(["encode", "-", "-o", "-", "--raw", "24000:1:f32le", *model], noise(480_000).tobytes()).out
    decoder = forks.codec("decode", "-", "-o", "-", *model)
    with killed_if_stuck(decoder):
        decoder.stdin.write(encoded)
        decoder.stdin.flush()
        assert decoder.stdout.read(44)[:4] == b"RIFF"
        decoder.stdout.close()
        assert decoder.stderr.read() == b""
        assert decoder.wait() == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("number", "message"), [(signal.SIGINT, b"interrupted\n"), (signal.SIGTERM, b""), (signal.SIGHUP, b"")]
)
def test_an_interrupt_is_one_line_and_leaves_no_file(
    runs: dict[str, str], forks: Forks, tmp_path: Path, number: signal.Signals, message: bytes
) -> None:
    target = tmp_path / "out.ecdc"
    encoder = forks.codec("encode", "-", "-o", str(target), "--raw", "24000:1:f32le", "--model", runs["causal"])
    with killed_if_stuck(encoder):
        encoder.stdin.write(noise(1000).tobytes())
        encoder.stdin.flush()
        while not list(tmp_path.iterdir()):
            time.sleep(0.01)
        encoder.send_signal(number)
        assert encoder.stderr.read() == message
        assert encoder.wait() == 128 + number
        assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_all_processes_and_leaves_no_unfinished_file(
    runs: dict[str, str], forks: Forks, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    audio = 0.1 * np.ones((2_000_000, 1), np.float32)
    for name in "abc":
        soundfile.write(tmp_path / "in" / f"{name}.wav", audio, 24_000)
    out = tmp_path / "out"
    options = ["-o", str(out), "--jobs", "2", "--beams", "64", "--model", runs["causal"]]
    encoder = forks.codec("encode", str(tmp_path / "in"), *options)
    with killed_if_stuck(encoder):
        while not out.is_dir() or len(list(out.iterdir())) < 2:
            assert encoder.poll() is None
            time.sleep(0.01)
        encoder.send_signal(signal.SIGINT)
        assert encoder.stderr.read() == b"interrupted\n"  # it ends when all processes have closed it
        assert encoder.wait() == 130
        assert not list(out.glob("*.partial"))


def test_invalid_input_is_one_line(run: Runner, runs: dict[str, str], tmp_path: Path) -> None:
    model = ["--model", runs["causal"]]
    soundfile.write(tmp_path / "in.wav", noise(5000), 24_000)
    wav = (tmp_path / "in.wav").read_bytes()
    encoded = run(["encode", "-", "-o", "-", *model], wav)[1]
    for arguments, data, message in [
        (["encode", "-", "-o", "-"], b"", "stdin: is empty"),
        (["encode", "-", "-o", "-"], wav[:30], "stdin: not audio"),
        (["decode", "-", "-o", "-"], encoded[:-3], "stdin is truncated or corrupt"),
        (["decode", "-", "-o", "-"], encoded + b"x", "stdin is corrupt: more bytes follow its end"),
        (["decode", "-", "-o", "-"], wav, "stdin is not an encoded file: it does not start with ECDC"),
    ]:
        status, _, error = run([*arguments, *model], data)
        assert status == 1
        assert error.startswith(f"codec: {message}")
        assert error.count("\n") == 1


def test_audio_that_ends_within_a_sample_is_kept_with_a_note(run: Runner, runs: dict[str, str], tmp_path: Path) -> None:
    model = ["--model", runs["causal"]]
    soundfile.write(tmp_path / "in.wav", noise(5000), 24_000)
    wav = (tmp_path / "in.wav").read_bytes()
    for arguments, data, samples, note in [
        ([], wav[:-3], 4998, "The audio has 9997 bytes, its header states 10000."),
        ([], wav[:40] + b"\0\0\0\0" + wav[44:] + b"x", 5000, "its last 1 are not used"),
        (["--raw", "24000:1:s16le"], wav[44:] + b"x", 5000, "its last 1 are not used"),
    ]:
        status, encoded, error = run(["encode", "-", "-o", "-", *arguments, *model], data)
        assert status == 0
        assert note in error
        status, decoded, _ = run(["decode", "-", "-o", "-", "--raw", "s16le", *model], encoded)
        assert (status, len(decoded)) == (0, 2 * samples)


def test_a_file_redirected_to_stdin_may_have_any_format(run: Runner, runs: dict[str, str], tmp_path: Path) -> None:
    model = ["--model", runs["causal"]]
    soundfile.write(tmp_path / "in.flac", noise(3000), 24_000)
    with (tmp_path / "in.flac").open("rb") as file:
        status, encoded, _ = run(["encode", "-", "-o", "-", *model], file)
    assert status == 0
    assert main(["encode", str(tmp_path / "in.flac"), "-f", "-o", str(tmp_path / "same.ecdc"), *model]) == 0
    assert encoded == (tmp_path / "same.ecdc").read_bytes()


def test_impossible_options_for_pipes_are_refused(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.raw").write_bytes(noise(1000).tobytes())
    (tmp_path / "folder").mkdir()
    for name in "ab":
        soundfile.write(tmp_path / "folder" / f"{name}.wav", noise(100), 24_000)
    raw = ["--raw", "24000:1:f32le"]
    files = ["encode", str(tmp_path / "in.raw"), "-f", "-o", str(tmp_path / "out.ecdc")]
    folders = ["encode", str(tmp_path / "folder")]
    for arguments, kind, message in [
        ([*files, *raw, "--block-frames", "2"], "segments", "this model does not stream"),
        ([*files, *raw, "--block-frames", "0"], "causal", "a block must have 1 to 4096 frames, got 0"),
        ([*folders, "-o", "-"], "causal", "-o - is standard output, which takes one file"),
        ([*folders, "-o", str(tmp_path / "coded"), *raw], "causal", "--raw describes one file, but 2 are given"),
        (["encode", "-", str(tmp_path / "in.raw"), "-o", str(tmp_path)], "causal", "- is a pipe: it must be the only"),
    ]:
        assert main([*arguments, "--model", runs[kind]]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    assert main([*files, *raw, "--model", runs["causal"]]) == 0
    assert "0.04 s" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([*files, "--raw", "loud"])
    assert "raw audio as RATE:CHANNELS:" in capsys.readouterr().err
