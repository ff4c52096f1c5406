"""`codec encode` and `codec decode`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from codec.audio.pipe import RawFormat
from codec.audio.reader import AUDIO_SUFFIXES
from codec.bitstream.encodec.format import LanguageModel
from codec.bitstream.encodec.header import official_name
from codec.bitstream.header import CODINGS
from codec.coding.encodec_file import encode_as_encodec
from codec.coding.file_codec import FileCodec, FileResult, Span
from codec.commands.messages import complain
from codec.commands.model_options import add_beams_option, add_entropy_option, add_model_options, check_offered, load
from codec.commands.standard_streams import (
    STANDARD,
    name_of,
    opening_audio,
    opening_bytes,
    writing_bytes,
    writing_sink,
)

__all__ = ["add"]

_LM_HELP = "state dict (.th) of the encodec package's language model"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _add_encode(commands)
    _add_decode(commands)


def _add_encode(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    encode = commands.add_parser(
        "encode",
        help="audio to encoded file",
        description="Encodes an audio file (wav, flac, ogg, mp3 and what else libsndfile reads; any rate and number of "
        "channels), or every audio file in a folder. Through a pipe audio comes as WAV or as bare samples.",
    )
    encode.add_argument("source", metavar="IN", type=Path, help="audio file, or folder of them, or - for stdin")
    encode.add_argument("target", metavar="OUT", type=Path, help="encoded file (.ecdc), or folder if IN is one, or -")
    encode.add_argument("--bandwidth", type=float, metavar="KBPS", help="one the model offers; default: its highest")
    encode.add_argument(
        "--raw", metavar="RATE:CHANNELS:CODING", type=_raw_format, help="IN is bare samples, as 24000:1:s16le or :f32le"
    )
    encode.add_argument(
        "--block-frames",
        metavar="N",
        type=int,
        help="frames stored together; with 1 each leaves once its last sample is there, at 10 bytes more a frame. "
        "Default: some seconds",
    )
    encode.add_argument(
        "--format",
        choices=["own", "encodec"],
        default="own",
        help="encodec: the encodec package's, for models of its two architectures; has no checksums",
    )
    encode.add_argument("--lm", metavar="FILE", type=Path, help=f"{_LM_HELP}, to compress with; --format encodec only")
    encode.add_argument(
        "--coding",
        choices=CODINGS,
        help="fixed: all bits of each code; adaptive: fewer, as it learns which are frequent; transformer: fewest, by "
        "what codec train-entropy learnt. Default: transformer where there is such a model, else adaptive, but fixed "
        "with --block-frames",
    )
    add_beams_option(encode)
    add_entropy_option(encode)
    add_model_options(encode)
    encode.set_defaults(run=_encode)


def _add_decode(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    decode = commands.add_parser(
        "decode",
        help="encoded file to audio",
        description="Decodes a file, or every .ecdc in a folder (to .wav). The audio has the model's rate and "
        "channels, which need not be those of the file that was encoded.",
    )
    decode.add_argument("source", metavar="IN", type=Path, help="encoded file, or folder of them, or - for stdin")
    decode.add_argument(
        "target", metavar="OUT", type=Path, help=".wav, .flac or .ogg, or folder if IN is one, or - for WAV to stdout"
    )
    decode.add_argument("--raw", metavar="CODING", choices=["s16le", "f32le"], help="OUT gets bare samples")
    decode.add_argument("--start", metavar="SECONDS", type=float, default=0.0, help="decode from there")
    decode.add_argument("--duration", metavar="SECONDS", type=float, help="decode so much; default: to the end")
    decode.add_argument(
        "--whole-frames",
        action="store_true",
        help="give each frame out as soon as it is there, so that the audio ends with a frame rather than a sample",
    )
    decode.add_argument("--lm", metavar="FILE", type=Path, help=f"{_LM_HELP}; files compressed with it need it")
    add_entropy_option(decode)
    add_model_options(decode)
    decode.set_defaults(run=_decode)


def _raw_format(text: str) -> RawFormat:
    try:
        return RawFormat.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _encode(options: argparse.Namespace) -> int:
    coder = load(options)
    offered = coder.codec.config.bandwidths_kbps
    bandwidth_kbps = max(offered) if options.bandwidth is None else options.bandwidth
    check_offered(bandwidth_kbps, offered)
    foreign = options.format == "encodec"
    if options.lm is not None and not foreign:
        raise ValueError("--lm is for the encodec package's format: give --format encodec too")
    if foreign and options.block_frames is not None:
        raise ValueError("the encodec package's format has no blocks, so --block-frames means nothing in it")
    if foreign:
        official_name(coder.codec.config)  # refused before anything is read
    lm = _language_model(options.lm, coder)

    def encode(source: Path, target: Path) -> FileResult:
        with opening_audio(source, options.raw) as audio, writing_bytes(target) as file:
            if foreign:
                return encode_as_encodec(coder, audio, file, bandwidth_kbps, lm)
            return coder.encode_stream(audio, file, bandwidth_kbps, options.block_frames, options.coding)

    return _each(options, encode, AUDIO_SUFFIXES, ".ecdc")


def _decode(options: argparse.Namespace) -> int:
    coder = load(options)
    config = coder.codec.config
    span = Span(options.start, options.duration)
    span.samples(config.sample_rate)  # refused before anything is opened
    lm = _language_model(options.lm, coder)

    def decode(source: Path, target: Path) -> FileResult:
        with opening_bytes(source) as file:
            reader = coder.open_encoded(file, name_of(source), lm)
            with writing_sink(target, config.sample_rate, config.channels, options.raw) as sink:
                return coder.decode_stream(reader, sink, span, options.whole_frames)

    return _each(options, decode, frozenset({".ecdc"}), ".wav")


def _language_model(path: Path | None, coder: FileCodec) -> LanguageModel | None:
    if path is None:
        return None
    from codec.bitstream.encodec.language_model import read_encodec_lm  # here, because few files need it

    return read_encodec_lm(path, coder.codec.config)


def _each(
    options: argparse.Namespace, work: Callable[[Path, Path], FileResult], suffixes: frozenset[str], new_suffix: str
) -> int:
    """Does `work` on a file, or on all files of a folder with one of the suffixes, mirroring the tree."""
    source, target = options.source, options.target
    if not source.is_dir():
        if source != STANDARD and not source.is_file():
            raise ValueError(f"there is no file {source}")
        if STANDARD not in (source, target) and target.exists() and source.samefile(target):
            raise ValueError(f"input and output are the same file, {source}")
        _report(target, work(source, target))
        return 0
    if target == STANDARD or options.raw:
        raise ValueError(f"{source} is a folder: pipes and bare samples are for one file at a time")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{source} is a folder, so the output must be one, but {target} is a file")
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not found:
        raise ValueError(f"no file in {source} ends in {', '.join(sorted(suffixes))}")
    failed = _do_all(found, source, target, work, new_suffix)
    print(f"{len(found) - failed} of {len(found)} files done")
    return 1 if failed else 0


def _do_all(
    found: list[Path], source: Path, target: Path, work: Callable[[Path, Path], FileResult], new_suffix: str
) -> int:
    from rich.console import Console  # here, because only folders need it
    from rich.progress import Progress

    console = Console(stderr=True)
    made: dict[Path, Path] = {}
    failed = 0
    bar = Progress(console=console, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty())
    with bar as progress:
        for path in progress.track(found, description=source.name):
            goal = (target / path.relative_to(source)).with_suffix(new_suffix)
            try:
                if goal in made:
                    raise ValueError(f"{path} and {made[goal]} would both become {goal}")
                made[goal] = path
                goal.parent.mkdir(parents=True, exist_ok=True)
                _report(goal, work(path, goal))
            except (ValueError, OSError) as error:
                complain(error)
                failed += 1
    return failed


def _report(target: Path, result: FileResult) -> None:
    notes = "".join(f"; {note}" for note in result.notes)
    stream = sys.stderr if target == STANDARD else sys.stdout
    print(
        f"{target}: {result.seconds:.2f} s, {result.kbps:.2f} kbps ({result.encoded_bytes} bytes){notes}", file=stream
    )
