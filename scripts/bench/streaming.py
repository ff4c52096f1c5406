"""Times streaming encoding and decoding on one core, including the slowest chunk.

python -m scripts.bench.streaming [--codec NAME] [--seconds S] [--chunk-frames N ...] [--kbps KBPS] [--json FILE]

A live stream has chunks of one frame; longer chunks have less overhead per frame. The model has random weights; speed
does not depend on the weights. The real-time factor is seconds of audio per second of computation.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from codec import Codec
from codec.network.conv import fold_weight_norm
from codec.streaming import StreamingDecoder, StreamingEncoder
from scripts.bench.machine import describe_machine
from scripts.composition import CONFIGS

__all__ = ["Row", "main", "measure"]


class Row(NamedTuple):
    """Times of one direction at one chunk length."""

    direction: str
    chunk_seconds: float
    seconds: list[float]  # computation time of each chunk

    @property
    def real_time_factor(self) -> float:
        return self.chunk_seconds * len(self.seconds) / sum(self.seconds)

    @property
    def worst_share(self) -> float:
        """Time of the slowest chunk divided by its duration; above 1 a live stream would stall."""
        return max(self.seconds) / self.chunk_seconds

    @property
    def median_share(self) -> float:
        return median(self.seconds) / self.chunk_seconds


def measure(codec: Codec, chunk_frames: int, seconds: float, bandwidth_kbps: float | None) -> list[Row]:
    """Streams noise through encoder and decoder, after the frames that reflection padding delays."""
    config = codec.config
    chunk_samples = chunk_frames * config.hop_samples
    chunk_seconds = chunk_samples / config.sample_rate
    chunks = max(1, round(seconds / chunk_seconds))
    encoder, decoder = StreamingEncoder(codec, bandwidth_kbps), StreamingDecoder(codec)
    warm_up = 32 * config.hop_samples
    decoder.push(encoder.push(torch.randn(1, config.channels, warm_up)))
    rows: dict[str, list[float]] = {"encode": [], "decode": []}
    for _ in range(chunks + 1):
        audio = torch.randn(1, config.channels, chunk_samples)
        codes = _timed(encoder.push, audio, rows["encode"])
        _timed(decoder.push, codes, rows["decode"])
    return [
        Row(direction, chunk_seconds, taken[1:]) for direction, taken in rows.items()
    ]  # the first chunk is a warm-up


def _timed(push: Callable[[Tensor], Tensor], x: Tensor, seconds: list[float]) -> Tensor:
    begun = time.perf_counter()
    y = push(x)
    seconds.append(time.perf_counter() - begun)
    return y


def _codec(name: str) -> Codec:
    """Random weights; the codebooks are initialized with the model's latents."""
    torch.manual_seed(0)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(None, [f"+codec={name}", "+sample_rate=24000"])
    codec: Codec = instantiate(cfg.codec, _convert_="all")
    codec.quantizer.initialize(
        codec.encode_latent(torch.randn(1, codec.config.channels, 20 * codec.config.sample_rate))[0].t().detach()
    )
    fold_weight_norm(codec)
    return codec.eval()


def _print(rows: Sequence[Row], title: str) -> None:
    print(title)
    print(f"  {'':<8} {'chunk':>9} {'real-time factor':>17} {'median chunk':>13} {'worst chunk':>12}  (share)")
    for row in rows:
        print(
            f"  {row.direction:<8} {1000 * row.chunk_seconds:6.1f} ms {row.real_time_factor:17.1f} "
            f"{row.median_share:13.3f} {row.worst_share:12.3f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.streaming", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--codec", default="encodec_24khz", help="causal model of configs/codec (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="audio per chunk length (%(default)g)")
    parser.add_argument("--chunk-frames", type=int, nargs="+", default=[1, 75], help="frames per chunk (1 and 75)")
    parser.add_argument("--kbps", type=float, help="bitrate (default: the highest of the model)")
    parser.add_argument("--json", type=Path, help="also write the results as JSON here")
    options = parser.parse_args(arguments)
    print(describe_machine(), flush=True)
    torch.set_num_threads(1)
    codec = _codec(options.codec)
    kbps = options.kbps or max(codec.config.bandwidths_kbps)
    rows = [row for frames in options.chunk_frames for row in measure(codec, frames, options.seconds, kbps)]
    _print(rows, f"{options.codec} as a stream at {kbps:g} kbps, one core")
    if options.json:
        found: list[dict[str, Any]] = [
            row._asdict()
            | {
                "real_time_factor": row.real_time_factor,
                "worst_share": row.worst_share,
                "median_share": row.median_share,
            }
            for row in rows
        ]
        about = {"machine": describe_machine(), "codec": options.codec, "kbps": kbps}
        options.json.write_text(json.dumps(about | {"rows": found}, indent=1))


if __name__ == "__main__":
    main()
