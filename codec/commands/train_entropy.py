"""`codec train-entropy`."""

import argparse
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from codec.audio import AudioFile, describe_skipped, find_audio, readable
from codec.bitstream.entropy.coding_sizes import coding_sizes, print_coding_sizes
from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyFileError, EntropyModel
from codec.bitstream.entropy.network import EntropyConfig
from codec.bitstream.entropy.training import minutes_progress, split, steps_progress, train
from codec.bundled import bundled_models
from codec.coding import PreparedCodec
from codec.coding.encode import encode_codes
from codec.commands.loading import load_codec
from codec.commands.messages import check_absent, print_error
from codec.models import model_path

__all__ = ["run"]

_CONTEXT_SECONDS = 3.5
_HELD_OUT = "held out"  # row of the table if there is no --held-out


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    _check_options(options.minutes, options.steps)
    output = _output(options.output, model_path(options.model))
    prepared = load_codec(options)
    config = prepared.codec.config
    errors: list[ValueError] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:

        def codes_of(folders: list[Path]) -> list[NDArray[np.int64]]:
            return _codes(prepared, folders, lambda paths: progress.track(paths, description="encoding"), errors)

        signals = codes_of(options.data)
        groups = {str(folder): codes_of([folder]) for folder in options.held_out}
        data = split(signals, options.seed)
        bar, bits = progress.add_task("training", total=1.0), config.bits_per_code

        def report(fraction: float, loss: float, held_out: float | None) -> None:
            progress.update(bar, completed=fraction, description=f"training, {loss:.2f} bits per code")
            if held_out is not None:
                progress.console.print(f"{fraction:4.0%}  held-out codes take {held_out:.3f} of {bits} bits")

        context_frames = math.ceil(_CONTEXT_SECONDS * config.frame_rate_hz)
        size = EntropyConfig(config.num_codebooks, max(config.codebook_sizes), context_frames)
        codebook_counts = sorted({config.codebooks_for(kbps) for kbps in config.bandwidths_kbps})
        training_progress = (
            minutes_progress(options.minutes) if options.steps is None else steps_progress(options.steps)
        )
        codebooks = prepared.codec.quantizer.inference_state().get("embed")  # None for a quantizer without vectors
        network = train(data, size, codebook_counts, training_progress, options.seed, codebooks, report)
        entropy = EntropyModel.from_network(network, prepared.fingerprint)
        entropy.save(output)
    print(f"{readable(output)}: entropy model {entropy.fingerprint}, {output.stat().st_size} bytes")
    print_coding_sizes(coding_sizes(groups or {_HELD_OUT: data.held_out}, entropy, config))
    for error in errors:
        print_error(error)
    return 1 if errors else 0


def _output(chosen: Path | None, model: Path) -> Path:
    """The file to write. An entropy model may be replaced, any other file not."""
    if chosen is None and model in bundled_models().values():
        raise ValueError(
            f"{ENTROPY_NAME} would be written beside a bundled model: name a run with --model, or --output"
        )
    output = chosen or model.with_name(ENTROPY_NAME)
    if not output.parent.is_dir():
        raise ValueError(f"cannot write {readable(output)}: there is no folder {readable(output.parent)}")
    if not _is_entropy_model(output):
        check_absent(output)
    return output


def _is_entropy_model(path: Path) -> bool:
    try:
        EntropyModel.load(path)
    except EntropyFileError:
        return False
    return True


def _check_options(minutes: float, steps: int | None) -> None:
    if not 0 <= minutes < math.inf:
        raise ValueError(f"--minutes must be 0 or more, got {minutes:g}")
    if steps is not None and steps < 1:
        raise ValueError(f"--steps must be 1 or more, got {steps}")


def _codes(
    prepared: PreparedCodec,
    folders: list[Path],
    track: Callable[[list[Path]], Iterable[Path]],
    errors: list[ValueError],
) -> list[NDArray[np.int64]]:
    """Codes [K, F] of every audio file in the folders, at the highest bandwidth. Appends to `errors`."""
    paths = []
    for folder in folders:
        found = find_audio(folder)
        if not found.files:
            raise ValueError(f"no audio file in {readable(folder)}")
        paths += found.files
        errors += [ValueError(line) for line in describe_skipped(found.skipped)]
    bandwidth_kbps = max(prepared.codec.config.bandwidths_kbps)
    signals = []
    for path in track(paths):
        try:
            with AudioFile(path) as audio:
                blocks = list(encode_codes(prepared, audio, bandwidth_kbps))
        except ValueError as error:
            errors.append(error)
            continue
        if blocks:
            signals.append(np.concatenate([block.numpy() for block in blocks], 1))
    return signals
