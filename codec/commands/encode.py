"""`codec encode`."""

import argparse
from pathlib import Path

from codec.audio import AUDIO_SUFFIXES, RawFormat
from codec.bitstream.encodec.header import package_model_name
from codec.bitstream.header import CODINGS
from codec.coding import CodingResult, encode_audio, encode_audio_as_encodec
from codec.commands.batch import process_files
from codec.commands.model_options import (
    add_beams_option,
    add_entropy_option,
    add_lm_option,
    add_model_options,
    check_bandwidth,
    load_codec,
    load_language_model,
)
from codec.commands.standard_streams import open_audio_source, open_output

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    encode = commands.add_parser(
        "encode",
        help="audio to encoded file",
        description="Encodes an audio file of any sampling rate and number of channels (WAV, FLAC, Ogg, MP3 and other "
        "formats of libsndfile), or all audio files in a folder. Pipes accept WAV (streamed WAV included) and raw "
        "samples.",
    )
    encode.add_argument("source", metavar="IN", type=Path, help="audio file, folder of audio files, or - for stdin")
    encode.add_argument("target", metavar="OUT", type=Path, help="encoded file (.ecdc), folder, or - for stdout")
    encode.add_argument(
        "--bandwidth", type=float, metavar="KBPS", help="one of the model's bandwidths. Default: the highest"
    )
    encode.add_argument(
        "--raw",
        metavar="RATE:CHANNELS:ENCODING",
        type=_raw_format,
        help="IN has raw samples, for example 24000:1:s16le or 48000:2:f32le",
    )
    encode.add_argument(
        "--block-frames",
        metavar="N",
        type=int,
        help="frames stored together. For low latency use 1: each frame is written as soon as its last sample is read, "
        "which costs 10 bytes a frame. Default: some seconds",
    )
    encode.add_argument(
        "--format",
        choices=["own", "encodec"],
        default="own",
        help="encodec: the .ecdc format of the encodec package, for models of its two architectures. It has no "
        "checksums. Default: own",
    )
    add_lm_option(encode, "to compress the codes. Needs --format encodec")
    encode.add_argument(
        "--coding",
        choices=CODINGS,
        help="how codes are stored, from largest to smallest file. fixed: all bits of each code. adaptive: learns the "
        "frequencies of codes in the file. transformer: predicts codes with the model of codec train-entropy. Default: "
        "transformer if there is such a model, otherwise adaptive; fixed with --block-frames",
    )
    add_beams_option(encode)
    add_entropy_option(encode)
    add_model_options(encode)
    encode.set_defaults(run=_encode)


def _raw_format(text: str) -> RawFormat:
    try:
        return RawFormat.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _encode(options: argparse.Namespace) -> int:
    prepared = load_codec(options)
    config = prepared.codec.config
    bandwidth_kbps = max(config.bandwidths_kbps) if options.bandwidth is None else options.bandwidth
    check_bandwidth(bandwidth_kbps, config.bandwidths_kbps)
    as_encodec = options.format == "encodec"
    if options.lm is not None and not as_encodec:
        raise ValueError("--lm needs --format encodec")
    if as_encodec and options.block_frames is not None:
        raise ValueError("--block-frames cannot be used with --format encodec, which has no blocks")
    if as_encodec:
        package_model_name(config)  # fails before anything is read
    lm = load_language_model(options.lm, config)

    def encode(source: Path, target: Path) -> CodingResult:
        with open_audio_source(source, options.raw) as audio, open_output(target) as file:
            if as_encodec:
                return encode_audio_as_encodec(prepared, audio, file, bandwidth_kbps, lm)
            return encode_audio(prepared, audio, file, bandwidth_kbps, options.block_frames, options.coding)

    return process_files(options.source, options.target, options.raw is not None, encode, AUDIO_SUFFIXES, ".ecdc")
