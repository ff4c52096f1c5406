"""`codec decode`."""

import argparse
from pathlib import Path

from codec.coding import CodingResult, SampleRange, decode_audio, open_encoded
from codec.commands.batch import process_files
from codec.commands.model_options import (
    add_entropy_option,
    add_lm_option,
    add_model_options,
    load_codec,
    load_language_model,
)
from codec.commands.standard_streams import display_name, open_audio_sink, open_input

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    decode = commands.add_parser(
        "decode",
        help="encoded file to audio",
        description="Decodes a file, or all .ecdc files in a folder (to .wav). The audio has the sampling rate and the "
        "channels of the model, not those of the original audio.",
    )
    decode.add_argument("source", metavar="IN", type=Path, help="encoded file, folder of them, or - for stdin")
    decode.add_argument(
        "target", metavar="OUT", type=Path, help=".wav, .flac or .ogg file, folder, or - for WAV to stdout"
    )
    decode.add_argument("--raw", metavar="CODING", choices=["s16le", "f32le"], help="write raw samples: s16le or f32le")
    decode.add_argument(
        "--start", metavar="SECONDS", type=float, default=0.0, help="where to start. Default: 0, the start of the audio"
    )
    decode.add_argument(
        "--duration", metavar="SECONDS", type=float, help="how much to decode. Default: to the end of the audio"
    )
    decode.add_argument(
        "--whole-frames",
        action="store_true",
        help="for low latency: write each frame as soon as it is decoded. The length of the output is then a multiple "
        "of the frame length",
    )
    add_lm_option(decode, "for files that were compressed with it")
    add_entropy_option(decode)
    add_model_options(decode)
    decode.set_defaults(run=_decode)


def _decode(options: argparse.Namespace) -> int:
    prepared = load_codec(options)
    config = prepared.codec.config
    part = SampleRange.from_seconds(options.start, options.duration, config.sample_rate)
    lm = load_language_model(options.lm, config)

    def decode(source: Path, target: Path) -> CodingResult:
        with open_input(source) as file:
            reader = open_encoded(prepared, file, display_name(source), lm)
            with open_audio_sink(target, config.sample_rate, config.channels, options.raw) as sink:
                return decode_audio(prepared, reader, sink, part, options.whole_frames)

    suffixes = frozenset({".ecdc"})
    return process_files(options.source, options.target, options.raw is not None, decode, suffixes, ".wav")
