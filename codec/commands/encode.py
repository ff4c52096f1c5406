"""`codec encode`."""

import argparse
import sys

from codec.audio import readable
from codec.bitstream.encodec.header import package_model_name
from codec.coding import CodingResult, encode_audio, encode_audio_as_encodec
from codec.commands.batch import Operation, Progress, process_files
from codec.commands.loading import (
    chosen_bitrate,
    load_codec,
    load_language_model,
)
from codec.commands.plan import ENCODE, Task, plan
from codec.commands.standard_streams import open_audio_source, open_output

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    tasks = plan(options.inputs, options.output, ENCODE, options.force)
    if options.raw is not None and len(tasks.tasks) > 1:
        raise ValueError(f"--raw describes one file, but {len(tasks.tasks)} are given")
    return process_files(tasks, _make_operation, options)


def _make_operation(options: argparse.Namespace) -> Operation:
    as_encodec = options.format == "encodec"
    if options.lm is not None and not as_encodec:
        raise ValueError("--lm needs --format encodec")
    for option, value in (
        ("block-frames", options.block_frames),
        ("coding", options.coding),
        ("entropy", options.entropy),
    ):
        if as_encodec and value is not None:
            raise ValueError(f"--{option} cannot be used with --format encodec: it belongs to --format own")
    prepared = load_codec(options)
    config = prepared.codec.config
    bandwidth_kbps = chosen_bitrate(options, config)
    if as_encodec:
        package_model_name(config)  # fails before anything is read
    lm = load_language_model(options.lm, config)
    if options.verbose:
        codebooks = config.codebooks_for(bandwidth_kbps)
        print(f"{bandwidth_kbps:g} kbit/s: {codebooks} codes in each of {config.frame_rate_hz:g} frames per second",
              file=sys.stderr)  # fmt: skip

    def encode(task: Task, progress: Progress) -> CodingResult:
        with open_audio_source(task.source, options.raw) as audio:
            frames = getattr(audio, "frames", 0)  # pipes do not know it
            total = frames * config.sample_rate / audio.sample_rate

            def advance(samples: int) -> None:
                progress(min(1.0, samples / total) if total else 0.0)

            if options.verbose:
                print(f"{readable(audio.name)}: {audio.sample_rate} Hz, {audio.channels} channels", file=sys.stderr)
            with open_output(task.target) as file:
                if as_encodec:
                    return encode_audio_as_encodec(prepared, audio, file, bandwidth_kbps, lm)
                return encode_audio(
                    prepared, audio, file, bandwidth_kbps, options.block_frames, options.coding, progress=advance
                )

    return encode
