"""Counts the operations and the weights of every network, quantizer and discriminator, and times them on one thread.

python -m scripts.bench.parts [--seconds S] [--rounds N] [--codecs OVERRIDE ...] [--discriminators NAME ...]
    [--json FILE]

The result is the tables of docs/recipes.md. Operations are counted with `torch.utils.flop_counter`, two for a
multiply-add: products of matrices, convolutions and LSTMs. Fourier transforms and pointwise operations are not counted.
Times are CPU times per second of audio, medians of the rounds. `--rounds 0` leaves them out. Quantizers use all
codebooks.
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
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from codec import Codec
from codec.network.conv import fold_weight_norm
from losses import discriminator_for
from scripts.bench.machine import describe_machine
from scripts.composition import CONFIGS
from scripts.parts import instantiate

__all__ = ["Cost", "codec_costs", "discriminator_cost", "main", "operations"]

_RATE = 24_000  # Hz, of the discriminators


class Cost(NamedTuple):
    """Cost of a part for one second of audio."""

    operations: int
    weights: int
    cpu_seconds: float | None


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, without gradients."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_LSTM) as counter:
        call()
    return int(counter.get_total_flops())


def _lstm_layer(inputs: Sequence[int], *weights: Any, out_shape: Any = None, **_: Any) -> int:
    """Two products for every frame: of the frame and of the state before it, with four gates."""
    frames, batch, width = inputs
    gates, hidden = weights[1]
    return 2 * frames * batch * gates * (width + hidden)


_LSTM = {torch.ops.aten.mkldnn_rnn_layer: _lstm_layer}  # elsewhere torch computes an LSTM by products of matrices


def _cost(call: Callable[[], object], module: nn.Module, seconds: float, rounds: int) -> Cost:
    """The cost of a call that takes `seconds` of audio."""
    count = operations(call)  # and a warm-up
    taken = []
    with torch.no_grad():
        for _ in range(rounds):
            begun = time.process_time()
            call()
            taken.append((time.process_time() - begun) / seconds)
    weights = sum(parameter.numel() for parameter in module.parameters())
    return Cost(round(count / seconds), weights, median(taken) if taken else None)


def codec_costs(override: str, seconds: float, rounds: int) -> dict[str, Cost]:
    """Encoder, search of the codes, sum of the codes, and decoder of a codec that an override of train.yaml chooses."""
    cfg = compose("train", [override, "data=clips", "name=bench"])
    codec: Codec = instantiate(cfg.codec).eval()
    rate, hop = codec.config.sample_rate, codec.config.hop_samples
    frames = round(seconds * rate) // hop
    audio = 0.1 * torch.randn(1, codec.config.channels, frames * hop)
    with torch.no_grad():
        latent: Tensor = codec.encoder(audio)
        search = codec.quantizer.search()
        codes = search(latent)
    weights = {name: sum(p.numel() for p in getattr(codec, name).parameters()) for name in ("encoder", "decoder")}
    fold_weight_norm(codec)  # as in use
    calls: dict[str, tuple[Callable[[], object], nn.Module]] = {
        "encoder": (lambda: codec.encoder(audio), codec.encoder),
        "search": (lambda: search(latent), codec.quantizer),  # type: ignore[dict-item]
        "sum": (lambda: codec.quantizer.decode(codes), codec.quantizer),  # type: ignore[dict-item]
        "decoder": (lambda: codec.decoder(latent), codec.decoder),
    }
    costs = {name: _cost(*call, frames * hop / rate, rounds) for name, call in calls.items()}
    return {name: cost._replace(weights=weights.get(name, cost.weights)) for name, cost in costs.items()}


def discriminator_cost(name: str, seconds: float, rounds: int) -> Cost:
    """One pass over mono audio at 24 kHz, and the weights of all discriminators."""
    cfg = compose("train", ["codec=encodec_24khz", f"discriminator={name}", "data=clips", "name=bench"])
    discriminator: nn.Module = instantiate(cfg.discriminator).eval()
    audio = 0.1 * torch.randn(1, 1, round(seconds * _RATE))
    part = discriminator_for(discriminator, cfg.codec.bandwidths_kbps[0])
    return _cost(lambda: part(audio), discriminator, seconds, rounds)


def _options(group: str, *without: str) -> list[str]:
    names = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    return [name for name in names if name not in without]


def _billions(cost: Cost) -> str:
    return f"{cost.operations / 1e9:.2f}"


def _milliseconds(*costs: Cost) -> list[str]:
    """A cell, or none if nothing was timed."""
    taken = [cost.cpu_seconds for cost in costs if cost.cpu_seconds is not None]
    return [f"{1e3 * sum(taken):.1f}"] if taken else []


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (head[: len(rows[0])], ["---"] * len(rows[0]), *rows):
        print(f"| {' | '.join(row)} |")


def _codec_row(override: str, costs: dict[str, Cost]) -> list[str]:
    encoder, search, sums, decoder = costs.values()
    weights = (encoder.weights + decoder.weights) / 1e6
    name = override.removeprefix("codec=")
    return [f"`{name}`", *map(_billions, (encoder, search, decoder, sums)), f"{weights:.2f}",
            *_milliseconds(encoder, search), *_milliseconds(decoder, sums)]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.bench.parts", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seconds", type=float, default=3.0, help="of audio (%(default)g)")
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each part; 0: no times (%(default)s)")
    codecs = [*(f"codec={name}" for name in _options("codec")), "experiment=vocos_decoder"]
    parser.add_argument("--codecs", nargs="*", default=codecs, help="overrides of train.yaml (all codecs)")
    parser.add_argument("--discriminators", nargs="*", default=_options("discriminator", "none", "ms_stft_48khz"),
                        help="names (all)")  # fmt: skip
    parser.add_argument("--json", type=Path, help="also write the results as JSON here")
    options = parser.parse_args(arguments)
    print(describe_machine(), flush=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        found = {name: codec_costs(name, options.seconds, options.rounds) for name in options.codecs}
        judged = {name: discriminator_cost(name, options.seconds, options.rounds) for name in options.discriminators}
    if found:
        print("\nBillions of operations, millions of weights, milliseconds, for one second of audio\n")
        head = [
            "`codec=`",
            "encoder",
            "search of codes",
            "decoder",
            "sum of codes",
            "weights",
            "encode, ms",
            "decode, ms",
        ]
        _print_table(head, [_codec_row(*item) for item in found.items()])
    if judged:
        print()
        rows = [[f"`{name}`", _billions(cost), f"{cost.weights / 1e6:.2f}", *_milliseconds(cost)]
                for name, cost in judged.items()]  # fmt: skip
        _print_table(["`discriminator=`", "operations", "weights", "pass, ms"], rows)
    if options.json:
        costs = {name: {part: cost._asdict() for part, cost in parts.items()} for name, parts in found.items()}
        costs |= {f"discriminator={name}": {"pass": cost._asdict()} for name, cost in judged.items()}
        options.json.write_text(json.dumps({"machine": describe_machine(), "costs": costs}, indent=1))


if __name__ == "__main__":
    main()
