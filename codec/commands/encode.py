"""`codec encode`."""

import argparse
import sys

from codec.audio import RawFormat, readable
from codec.bitstream.encodec.header import package_model_name
from codec.bitstream.header import CODINGS
from codec.coding import CodingResult, encode_audio, encode_audio_as_encodec
from codec.commands.batch import Operation, Progress, process_files
from codec.commands.file_options import add_file_options
from codec.commands.model_options import (
    add_beams_option,
    add_bitrate_option,
    add_entropy_option,
    add_lm_option,
    add_model_options,
    chosen_bitrate,
    load_codec,
    load_language_model,
)
from codec.commands.plan import ENCODE, Task, plan
from codec.commands.standard_streams import open_audio_source, open_output

__all__ = ["add"]

_EXAMPLES = """examples:
  codec encode in.wav                          writes in.ecdc
  codec encode in.wav -o small.ecdc -b 3       3 kbit/s, another name
  codec encode music -o coded --jobs 4         a folder with its subfolders, in four processes
  codec encode *.flac -o coded                 several files
  ffmpeg -i in.mp4 -f wav - | codec encode - > out.ecdc
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    encode = commands.add_parser(
        "encode",
        help="audio to encoded files",
        description="Encodes audio of any sampling rate and number of channels: WAV, FLAC, Ogg, MP3 and other formats "
        "of libsndfile.",
        epilog=_EXAMPLES,
    )
    common = encode.add_argument_group("common options")
    add_file_options(encode, common, "audio file", "encoded file (.ecdc)", ".ecdc")
    add_bitrate_option(common)
    add_model_options(common)
    streaming = encode.add_argument_group("streaming")
    streaming.add_argument(
        "--raw",
        metavar="RATE:CHANNELS:ENCODING",
        type=_raw_format,
        help="IN has raw samples, for example 24000:1:s16le or 48000:2:f32le",
    )
    streaming.add_argument(
        "--block-frames",
        metavar="N",
        type=int,
        help="frames stored together. For low latency use 1: each frame is written as soon as its last sample is read, "
        "which costs 10 bytes a frame. Default: some seconds",
    )
    advanced = encode.add_argument_group("advanced options")
    add_beams_option(advanced)
    advanced.add_argument(
        "--coding",
        choices=CODINGS,
        help="how codes are stored, from largest to smallest file. fixed: all bits of each code. adaptive: learns the "
        "frequencies of codes in the file. transformer: predicts codes with the model of codec train-entropy. Default: "
        "transformer if there is such a model, otherwise adaptive; fixed with --block-frames",
    )
    add_entropy_option(advanced)
    advanced.add_argument(
        "--format",
        choices=["own", "encodec"],
        default="own",
        help="encodec: the .ecdc format of the encodec package, for models of its two architectures. It has no "
        "checksums. Default: own",
    )
    add_lm_option(advanced, "to compress the codes. Needs --format encodec")
    encode.set_defaults(run=_encode)


def _raw_format(text: str) -> RawFormat:
    try:
        return RawFormat.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _encode(options: argparse.Namespace) -> int:
    tasks = plan(options.inputs, options.output, ENCODE, options.force)
    if options.raw is not None and len(tasks.tasks) > 1:
        raise ValueError(f"--raw describes one file, but {len(tasks.tasks)} are given")
    return process_files(tasks, _make_operation, options)


def _make_operation(options: argparse.Namespace) -> Operation:
    as_encodec = options.format == "encodec"
    if options.lm is not None and not as_encodec:
        raise ValueError("--lm needs --format encodec")
    if as_encodec and options.block_frames is not None:
        raise ValueError("--block-frames cannot be used with --format encodec, which has no blocks")
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
