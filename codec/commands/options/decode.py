"""The options of `codec decode`."""

import argparse

from codec.commands.options.files import add_file_options
from codec.commands.options.model import add_entropy_option, add_lm_option, add_model_options

__all__ = ["add"]

_EXAMPLES = """examples:
  codec decode in.ecdc                         writes in.wav
  codec decode in.ecdc -o back.flac            .wav, .flac or .ogg
  codec decode in.ecdc -o part.wav --start 60 --duration 5
  codec decode coded -o back --jobs 4          a folder with its subfolders, in four processes
  cat in.ecdc | codec decode - | aplay
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    decode = commands.add_parser(
        "decode",
        help="encoded files to audio",
        description="Decodes files of codec encode, and of the encodec package. The audio has the sampling rate and "
        "the channels of the model, not those of the original audio.",
        epilog=_EXAMPLES,
    )
    common = decode.add_argument_group("common options")
    add_file_options(decode, common, "encoded file", ".wav, .flac or .ogg file", ".wav")
    common.add_argument(
        "--start", metavar="SECONDS", type=float, default=0.0, help="where to start. Default: 0, the start of the audio"
    )
    common.add_argument(
        "--duration", metavar="SECONDS", type=float, help="how much to decode. Default: to the end of the audio"
    )
    add_model_options(common, "the bundled model, or the one below ./runs, with which IN was encoded")
    streaming = decode.add_argument_group("streaming")
    streaming.add_argument(
        "--raw", metavar="ENCODING", choices=["s16le", "f32le"], help="write raw samples: s16le or f32le"
    )
    streaming.add_argument(
        "--whole-frames",
        action="store_true",
        help="for low latency: write each frame as soon as it is decoded. The length of the output is then a multiple "
        "of the frame length",
    )
    advanced = decode.add_argument_group("advanced options")
    add_entropy_option(advanced)
    add_lm_option(advanced, "for files that were compressed with it")
    decode.set_defaults(module="codec.commands.decode")
