"""`codec decode`."""

import argparse
from pathlib import Path

from codec.coding import (
    CodingResult,
    EncodedReader,
    PreparedCodec,
    SampleRange,
    attach_model,
    decode_audio,
    model_of,
    read_encoded,
)
from codec.commands.batch import Operation, Progress, process_files
from codec.commands.file_options import add_file_options
from codec.commands.model_options import (
    add_entropy_option,
    add_lm_option,
    add_model_options,
    load_codec,
    load_language_model,
)
from codec.commands.plan import DECODE, Task, plan
from codec.commands.standard_streams import display_name, open_audio_sink, open_input

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
    decode.set_defaults(run=_decode)


def _decode(options: argparse.Namespace) -> int:
    return process_files(plan(options.inputs, options.output, DECODE, options.force), _make_operation, options)


def _make_operation(options: argparse.Namespace) -> Operation:
    given = load_codec(options) if options.model is not None else None
    found: dict[Path, PreparedCodec] = {}  # by the file of the model

    def codec_of(reader: EncodedReader) -> PreparedCodec:
        if given is not None:
            return given
        path = model_of(reader)
        if path not in found:
            found[path] = load_codec(options, path)
        return found[path]

    def decode(task: Task, progress: Progress) -> CodingResult:
        with open_input(task.source) as file:
            reader = read_encoded(file, display_name(task.source))
            prepared = codec_of(reader)
            config = prepared.codec.config
            part = SampleRange.from_seconds(options.start, options.duration, config.sample_rate)
            attach_model(prepared, reader, load_language_model(options.lm, config))
            size = task.source.stat().st_size if task.source.is_file() else 0

            def advance(bytes_read: int) -> None:
                progress(min(1.0, bytes_read / size) if size else 0.0)

            with open_audio_sink(task.target, config.sample_rate, config.channels, options.raw) as sink:
                return decode_audio(prepared, reader, sink, part, options.whole_frames, progress=advance)

    return decode
