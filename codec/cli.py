"""The command `codec`: encode, decode, info, evaluate.

Exit status: 0 done, 1 bad input (one line on stderr per file that failed), 2 wrong usage. What was done and how goes to
stdout.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from codec.audio_file import AUDIO_SUFFIXES
from codec.bitstream import MAGIC, BitstreamReader
from codec.file_codec import FileCodec, FileResult, bitrate_kbps
from codec.model import Codec

__all__ = ["main"]

_MODEL_NAME = "model.safetensors"
_RUNS = Path("runs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Without the program's name; those of the process if None.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    # Every error of ours about input is a ValueError whose message is written for the user.
    except (ValueError, OSError) as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="codec", description="Encodes and decodes audio with a trained model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    encode = commands.add_parser(
        "encode",
        help="audio to encoded file",
        description="Encodes an audio file (wav, flac, ogg, mp3 and what else libsndfile reads; any rate and number of "
        "channels), or every audio file in a folder.",
    )
    encode.add_argument("source", metavar="IN", type=Path, help="audio file, or folder of them")
    encode.add_argument("target", metavar="OUT", type=Path, help="encoded file (.ecdc), or folder if IN is one")
    encode.add_argument("--bandwidth", type=float, metavar="KBPS", help="one the model offers; default: its highest")
    _add_model_options(encode)
    encode.set_defaults(run=_encode)

    decode = commands.add_parser(
        "decode",
        help="encoded file to audio",
        description="Decodes a file, or every .ecdc in a folder (to .wav). The audio has the model's rate and "
        "channels, which need not be those of the file that was encoded.",
    )
    decode.add_argument("source", metavar="IN", type=Path, help="encoded file, or folder of them")
    decode.add_argument("target", metavar="OUT", type=Path, help=".wav, .flac or .ogg, or folder if IN is one")
    _add_model_options(decode)
    decode.set_defaults(run=_decode)

    info = commands.add_parser("info", help="what an encoded file or a model is", description="Checks and describes.")
    info.add_argument("file", metavar="FILE", type=Path, help=f"encoded file, model file or run folder ({_MODEL_NAME})")
    info.set_defaults(run=_info)

    evaluate = commands.add_parser(
        "evaluate",
        help="scores and bitrates of a model on held-out audio",
        description="Encodes and decodes the audio of a folder at each bandwidth, and with Opus at 6, 12 and 24 kbps; "
        "prints the mean scores of each of its subfolders, and writes evaluation.json, evaluation.csv (a row per clip "
        "and bandwidth) and rate_distortion.png. Most of the time goes into ViSQOL, about the length of the audio at "
        "each bandwidth.",
    )
    evaluate.add_argument("--data", metavar="FOLDER", type=Path, required=True, help="audio the model never heard")
    evaluate.add_argument(
        "--output", metavar="DIR", type=Path, help="default: evaluation/ beside the model file, that is in its run"
    )
    evaluate.add_argument(
        "--bandwidths", metavar="KBPS", type=float, nargs="+", help="some of those the model offers; default: all"
    )
    evaluate.add_argument(
        "--clips", metavar="N", type=int, default=20, help="files taken of each subfolder at most (%(default)s)"
    )
    evaluate.add_argument(
        "--seconds", metavar="S", type=float, default=10.0, help="of the start of each file at most (%(default)g)"
    )
    _add_model_options(evaluate)
    evaluate.set_defaults(run=_evaluate)
    return parser


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint",
        metavar="RUN_OR_FILE",
        type=Path,
        help=f"run folder (its {_MODEL_NAME}) or .safetensors file; default: the newest in ./{_RUNS}",
    )
    command.add_argument("--device", help="cpu, cuda, cuda:1 ...; default: cuda if there is one")


def _encode(options: argparse.Namespace) -> int:
    coder = _load(options)
    offered = coder.codec.config.bandwidths_kbps
    bandwidth_kbps = max(offered) if options.bandwidth is None else options.bandwidth
    _check_offered(bandwidth_kbps, offered)

    def encode(source: Path, target: Path) -> FileResult:
        return coder.encode(source, target, bandwidth_kbps)

    return _each(options, encode, AUDIO_SUFFIXES, ".ecdc")


def _decode(options: argparse.Namespace) -> int:
    return _each(options, _load(options).decode, frozenset({".ecdc"}), ".wav")


def _check_offered(bandwidth_kbps: float, offered: Sequence[float]) -> None:
    if bandwidth_kbps not in offered:
        names = ", ".join(f"{b:g}" for b in offered)
        raise ValueError(f"this model offers bandwidths of {names} kbps, not {bandwidth_kbps:g}")


def _evaluate(options: argparse.Namespace) -> int:
    # Here, because only this command needs what scores and draws.
    from rich.console import Console
    from rich.progress import track

    from codec.evaluation.perceptual import check_packages
    from codec.evaluation.rate_distortion import evaluate_folder
    from codec.evaluation.rate_distortion_output import print_evaluation, write_evaluation

    check_packages()
    model = _model_path(options.checkpoint)
    coder = _load(options)
    offered = coder.codec.config.bandwidths_kbps
    bandwidths_kbps = sorted(set(options.bandwidths or offered))
    for bandwidth_kbps in bandwidths_kbps:
        _check_offered(bandwidth_kbps, offered)
    output = options.output or model.parent / "evaluation"
    output.mkdir(parents=True, exist_ok=True)  # now rather than after the work
    errors = Console(stderr=True)

    def tracked(names: Sequence[str]) -> Iterable[str]:
        return track(names, options.data.name, console=errors, disable=not errors.is_terminal)

    result = evaluate_folder(coder, options.data, bandwidths_kbps, options.clips, options.seconds, tracked)
    print_evaluation(result)
    about = {"model": str(model), "fingerprint": coder.fingerprint, "data": str(options.data)}
    for path in write_evaluation(result, about, output):
        print(path)
    for reason in result.set_aside:
        _complain(ValueError(reason))
    return 1 if result.set_aside else 0


def _info(options: argparse.Namespace) -> int:
    path = options.file
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                file.seek(0)
                _describe_encoded(BitstreamReader(file, str(path)), path.stat().st_size)
                return 0
    _describe_model(_model_path(path))
    return 0


def _describe_encoded(reader: BitstreamReader, size: int) -> None:
    frames = [block.codes.shape[1] for block in reader.blocks()]
    header = reader.header
    seconds = (reader.samples or 0) / header.sample_rate
    _print_table({
        "encoded with model": header.model,
        "length": f"{seconds:.2f} s ({reader.samples} samples at {header.sample_rate} Hz, {header.channels} channels)",
        "size": f"{size} bytes, {bitrate_kbps(size, seconds):.2f} kbps",
        "codes": f"{header.codebooks} codebooks of {header.bits_per_code} bits, {sum(frames)} frames of "
        f"{header.hop_samples} samples in {len(frames)} blocks, coding {header.coding}",
        "source": f"{header.source_sample_rate} Hz, {header.source_channels} channels",
    })  # fmt: skip


def _describe_model(path: Path) -> None:
    codec = Codec.load(path)
    config = codec.config
    weights = sum(parameter.numel() for parameter in codec.parameters())
    _print_table({
        "model": f"{codec.fingerprint()} ({path})",
        "audio": f"{config.sample_rate} Hz, {config.channels} channels",
        "frames": f"{config.frame_rate_hz} Hz, {config.hop_samples} samples each",
        "codebooks": f"{config.codebooks} of {config.codebook_size} codes, {config.kbps_per_codebook:g} kbps each",
        "bandwidths": ", ".join(f"{b:g}" for b in config.bandwidths_kbps) + " kbps",
        "causal": "yes" if config.causal else "no",
        "segments": "none" if config.segment_seconds is None else f"{config.segment_seconds:g} s",
        "weights": f"{weights / 1e6:.2f} million in encoder and decoder",
    })  # fmt: skip


def _print_table(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")


def _load(options: argparse.Namespace) -> FileCodec:
    path = _model_path(options.checkpoint)
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name} cannot be used: {str(error).splitlines()[0]}") from error
    codec = Codec.load(path).to(device)
    if options.checkpoint is None:
        print(f"using {path}")
    return FileCodec(codec)


def _model_path(checkpoint: Path | None) -> Path:
    if checkpoint is not None:
        return checkpoint / _MODEL_NAME if checkpoint.is_dir() else checkpoint
    models = sorted(_RUNS.glob(f"*/{_MODEL_NAME}"), key=lambda path: path.stat().st_mtime)
    if not models:
        raise ValueError(f"no run in ./{_RUNS} has a {_MODEL_NAME}: give --checkpoint")
    return models[-1]


def _each(
    options: argparse.Namespace, work: Callable[[Path, Path], FileResult], suffixes: frozenset[str], new_suffix: str
) -> int:
    """Does `work` on a file, or on all files of a folder with one of the suffixes, mirroring the tree."""
    source, target = options.source, options.target
    if not source.is_dir():
        if not source.is_file():
            raise ValueError(f"there is no file {source}")
        if target.exists() and source.samefile(target):
            raise ValueError(f"input and output are the same file, {source}")
        _report(target, work(source, target))
        return 0
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
                _complain(error)
                failed += 1
    return failed


def _report(target: Path, result: FileResult) -> None:
    notes = "".join(f"; {note}" for note in result.notes)
    print(f"{target}: {result.seconds:.2f} s, {result.kbps:.2f} kbps ({result.encoded_bytes} bytes){notes}")


def _complain(error: Exception) -> None:
    # The system's own errors carry a number and a quoted path.
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    print("codec:", " ".join(text.split()), file=sys.stderr)
