"""An hour of audio takes at most 100 MB more than importing torch, from files and through pipes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coding_inputs import ROOT, save_tiny

HOUR = 3600
RATE = 8_000
MAX_GROWTH = 100 << 20  # bytes above the peak after the imports, which depends on the build of torch
PROGRAM = """
import re, sys
import torch, soundfile, codec.cli

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024

before = peak()
status = codec.cli.main(sys.argv[1:])
print("bytes", peak() - before, file=sys.stderr)
sys.exit(status)
"""


def process(*arguments: str, stdin: int | None = None, stdout: int | None = None) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(line, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environment)


def growth(messages: bytes) -> int:
    return int(messages.decode().rsplit("bytes ", 1)[1])


@pytest.mark.long
def test_an_hour_through_pipes_and_from_files(tmp_path: Path) -> None:
    fast = {"lstm_layers": 0, "strides": (8, 5, 4, 2), "num_codebooks": 2, "bandwidths_kbps": (0.2,)}
    model = ["--model", save_tiny("causal_constant", tmp_path, sample_rate=RATE, **fast)]
    second = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype("<f4").tobytes()
    with (tmp_path / "in.raw").open("wb") as file:
        for _ in range(HOUR):
            file.write(second)
    encoded, decoded = str(tmp_path / "a.ecdc"), str(tmp_path / "a.wav")
    raw = ["--raw", f"{RATE}:1:f32le"]

    pipe = subprocess.PIPE
    with (
        process("encode", "-", "-o", "-", *raw, *model, stdin=pipe, stdout=pipe) as encoder,
        process("decode", "-", "-o", "-", "--raw", "f32le", *model, stdin=encoder.stdout, stdout=pipe) as decoder,
        subprocess.Popen(["wc", "-c"], stdin=decoder.stdout, stdout=pipe) as counter,
    ):
        assert encoder.stdin
        for _ in range(HOUR):
            encoder.stdin.write(second)
        encoder.stdin.close()
        assert int(counter.communicate()[0]) == HOUR * RATE * 4
        for running in (encoder, decoder):
            assert running.stderr
            assert growth(running.stderr.read()) < MAX_GROWTH
            assert running.wait() == 0

    for arguments in (
        ["encode", str(tmp_path / "in.raw"), "-f", "-o", encoded, *raw],
        ["decode", encoded, "-f", "-o", decoded],
    ):
        messages = process(*arguments, *model, stdout=subprocess.DEVNULL).communicate()[1]
        assert growth(messages) < MAX_GROWTH
    assert Path(decoded).stat().st_size == 44 + HOUR * RATE * 2
