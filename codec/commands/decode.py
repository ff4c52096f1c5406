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
from codec.commands.loading import (
    load_codec,
    load_language_model,
)
from codec.commands.plan import DECODE, Task, plan
from codec.commands.standard_streams import display_name, open_audio_sink, open_input

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
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
