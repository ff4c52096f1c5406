"""Times encoding and decoding, compared with the packages encodec and transformers with the same weights.

python -m scripts.bench.coding [--seconds S ...] [--batch N ...] [--threads N ...] [--rounds N] [--kbps KBPS]
    [--peers NAME ...] [--json FILE]

The model is EnCodec's 24 kHz architecture with random weights; speed does not depend on the weights. The codebooks are
initialized with the model's latents. The three coders alternate, and ratios are of their medians. Batches of more than
1000 s of audio are skipped, and long batches are repeated less often. The longest batches run first, with the default
memory allocator; for the others, freed memory is kept for the next round, which is faster for all three.
"""

import argparse
import itertools
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from codec import Codec, EncodedSegment
from codec.interop.encodec import settings_of_encodec
from codec.interop.transformers import export_transformers
from codec.interop.weights import codec_with, translated
from codec.network.conv import fold_weight_norm
from codec.training.startup.malloc import keep_freed_memory
from scripts.bench.machine import describe_machine

__all__ = ["Row", "main", "measure", "same_models"]

# Limits in seconds of audio per batch.
_MAX_SECONDS = 1000.0  # longer batches need more memory than small machines have
_KEEP_MEMORY_SECONDS = 200.0  # up to here freed memory is kept; for ten minutes of audio it would be 22 GB
_REPEAT_SECONDS = 60.0  # up to here all rounds are run


class Coder(NamedTuple):
    """Encodes audio [B, 1, T] to codes [B, K, F] and decodes them."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


class Row(NamedTuple):
    """Seconds per round of each coder, for one batch size and duration."""

    threads: int
    batch: int
    audio_seconds: float
    encode: dict[str, list[float]]
    decode: dict[str, list[float]]
    agreement: dict[str, float]  # share of frames with the same codes as the first coder


def same_models(kbps: float, peers: Sequence[str]) -> dict[str, Coder]:
    """Our codec first, then `peers`; all with the same weights."""
    from encodec.model import EncodecModel

    torch.manual_seed(0)
    with warnings.catch_warnings():
        # encodec 0.1.1 uses torch's deprecated weight_norm.
        warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm` is deprecated", FutureWarning)
        package = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    weights = translated(package.state_dict())
    codec = codec_with(weights, settings_of_encodec(weights))
    with torch.no_grad():
        codec.quantizer.initialize(codec.encode_latent(torch.randn(1, 1, 20 * codec.config.sample_rate))[0].t())
    for layer, embed in zip(package.quantizer.vq.layers, codec.quantizer.inference_state()["embed"], strict=True):
        layer._codebook.embed.copy_(embed)
        layer._codebook.inited.fill_(1)  # otherwise its first call runs k-means
    package.set_target_bandwidth(kbps)
    coders = {"encodec": Coder(lambda x: package.encode(x)[0][0], lambda codes: package.decode([(codes, None)]))}
    if "transformers" in peers:
        coders["transformers"] = _transformers(codec, kbps)
    fold_weight_norm(codec)
    ours = Coder(
        lambda x: codec.encode_segments(x, kbps)[0].codes,
        lambda codes: codec.decode_segments([EncodedSegment(codes, None)]),
    )
    return {"ours": ours} | {name: coders[name] for name in peers}


def _transformers(codec: Codec, kbps: float) -> Coder:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import EncodecModel

    with tempfile.TemporaryDirectory() as folder:
        export_transformers(codec, Path(folder))
        model: Any = EncodecModel.from_pretrained(folder).eval()
    return Coder(
        lambda x: model.encode(x, bandwidth=kbps, return_dict=False)[0][0],
        lambda codes: model.decode(codes[None], [None], return_dict=False)[0],
    )


@torch.no_grad()
def measure(coders: Mapping[str, Coder], threads: int, batch: int, seconds: float, rounds: int) -> Row:
    """Times the coders in turn on one batch of noise. The first round is a warm-up, unless there is only one."""
    torch.set_num_threads(threads)
    audio = torch.randn(batch, 1, round(24_000 * seconds))
    row = Row(threads, batch, seconds, {name: [] for name in coders}, {name: [] for name in coders}, {})
    warm = rounds > 1
    reference: Tensor | None = None
    for number in range(rounds + warm):
        for name, coder in coders.items():
            begun = time.perf_counter()
            codes = coder.encode(audio)
            encoded = time.perf_counter()
            coder.decode(codes)
            decoded = time.perf_counter()
            if number >= warm:
                row.encode[name].append(encoded - begun)
                row.decode[name].append(decoded - encoded)
            reference = codes if reference is None else reference
            row.agreement[name] = (codes == reference).all(1).float().mean().item()
    return row


def _print(row: Row) -> None:
    print(f"  {row.threads} thread(s), {row.batch} x {row.audio_seconds:g} s")
    audio_seconds = row.batch * row.audio_seconds
    for direction, seconds in (("encode", row.encode), ("decode", row.decode)):
        parts = [f"ours {audio_seconds / median(seconds['ours']):6.1f}"]
        for name in [name for name in seconds if name != "ours"]:
            ratio = median(seconds[name]) / median(seconds["ours"])
            parts.append(f"{name} {audio_seconds / median(seconds[name]):6.1f} ({ratio:.2f} x)")
        print(f"    {direction:<7} {'   '.join(parts)}")
    agreement = [f"{name} {100 * share:.2f} %" for name, share in row.agreement.items() if name != "ours"]
    print(f"    frames with the same codes: {', '.join(agreement)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.coding", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[1, 10, 600], help="duration of a signal (1, 10 and 600)"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="signals per batch (1 and 16)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads (1 and 2)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (%(default)s)")
    parser.add_argument("--kbps", type=float, default=6.0, help="bitrate (%(default)g)")
    parser.add_argument("--peers", nargs="+", default=["encodec", "transformers"], choices=["encodec", "transformers"])
    parser.add_argument("--json", type=Path, help="also write the results as JSON here")
    options = parser.parse_args(arguments)
    print(describe_machine(), flush=True)
    coders = same_models(options.kbps, options.peers)
    print(f"EnCodec 24 kHz, float32, {options.kbps:g} kbps; seconds of audio per second, "
          "and our speed relative to the package", flush=True)  # fmt: skip
    kinds = itertools.product(options.threads, options.batch, options.seconds)
    rows = []
    for threads, batch, seconds in sorted(kinds, key=lambda kind: kind[1] * kind[2] <= _KEEP_MEMORY_SECONDS):
        if batch * seconds > _MAX_SECONDS:
            continue
        rounds = 1
        if batch * seconds <= _KEEP_MEMORY_SECONDS:
            keep_freed_memory()
            rounds = options.rounds if batch * seconds <= _REPEAT_SECONDS else min(options.rounds, 2)
        rows.append(measure(coders, threads, batch, seconds, rounds))
        _print(rows[-1])
    if options.json:
        about = {"machine": describe_machine(), "kbps": options.kbps}
        options.json.write_text(json.dumps(about | {"coding": [row._asdict() for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
