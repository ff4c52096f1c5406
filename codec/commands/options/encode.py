"""The options of `codec encode`."""

import argparse

from codec.commands.options.files import add_file_options
from codec.commands.options.model import (
    add_beams_option,
    add_bitrate_option,
    add_entropy_option,
    add_lm_option,
    add_model_options,
)

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
        choices=("fixed", "adaptive", "transformer"),
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
    encode.set_defaults(module="codec.commands.encode")


def _raw_format(text: str) -> object:
    from codec.audio import RawFormat  # imported here, because help and errors of usage must not wait for it

    try:
        return RawFormat.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
