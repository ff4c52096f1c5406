"""Trains a `CodeTransformer` on codes, for a number of minutes or steps."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig

__all__ = ["Split", "for_minutes", "for_steps", "split", "train"]

_BATCH = 8  # stretches a step
_PREDICTED = 512  # frames a step whose codes are predicted: the heads cost more than all layers before them
_LEARNING_RATE = 3e-3
_WARMUP = 0.05  # share of the training
_TESTS = 12  # held-out losses taken on the way
_TESTED = 24  # stretches each looks at
_HELD_OUT = 0.05  # share of the frames


@dataclass(frozen=True)
class Split:
    """Codes to learn from and codes to judge by, [K, F] for each signal."""

    train: list[NDArray[np.int64]]
    held_out: list[NDArray[np.int64]]


def split(signals: Sequence[NDArray[np.int64]], seed: int) -> Split:
    """Holds whole signals out, drawn until they are 5 % of the frames; of a single signal, its last 10 %.

    Raises:
        ValueError: There are fewer than 100 frames.
    """
    frames = sum(signal.shape[1] for signal in signals)
    if frames < 100:
        raise ValueError(f"expected at least 100 frames of codes to learn from, got {frames}")
    if len(signals) == 1:
        cut = frames - frames // 10
        return Split([signals[0][:, :cut]], [signals[0][:, cut:]])
    order = np.random.default_rng(seed).permutation(len(signals))
    held, taken = [], 0
    for i in order[:-1]:  # one at least is left to learn from
        held.append(int(i))
        taken += signals[i].shape[1]
        if taken >= _HELD_OUT * frames:
            break
    chosen = set(held)
    return Split([s for i, s in enumerate(signals) if i not in chosen], [signals[i] for i in held])


def for_minutes(minutes: float) -> Callable[[], float]:
    """The share of so many minutes from now that is over; 0 minutes are over at once.

    Two trainings on a clock differ in the steps they make, so in their results.
    """
    start = time.monotonic()
    return lambda: 1.0 if minutes == 0 else min(1.0, (time.monotonic() - start) / (60 * minutes))


def for_steps(steps: int) -> Callable[[], float]:
    """1 / steps, 2 / steps ... 1 from one call to the next."""
    shares = (step / steps for step in range(1, steps + 1))
    return lambda: next(shares)


def train(
    data: Split,
    config: EntropyConfig,
    book_choices: Sequence[int],
    share_done: Callable[[], float],
    seed: int,
    codebooks: Tensor | None = None,
    report: Callable[[float, float, float | None], None] = lambda done, loss, held_out: None,
) -> CodeTransformer:
    """The network that did best on the held-out codes.

    Args:
        data: See `split`.
        config: Size of the network.
        book_choices: Numbers of books that the codec's bandwidths take; each step draws one.
        share_done: Asked before each step for the share of the training that is over with it, which the learning rate
            follows; the step for which it is 1 is the last. See `for_minutes` and `for_steps`.
        seed: Of weights and draws. With `for_steps` the same seed gives the same network, to the bit, on the CPU of
            one machine with one number of threads.
        codebooks: See `CodeTransformer`; training happens where they are.
        report: Told the share of the training that is over, bits per code, and those of held-out codes when measured.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    device = torch.device("cpu") if codebooks is None else codebooks.device
    network = CodeTransformer(config, None if codebooks is None else codebooks.cpu()).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), _LEARNING_RATE, (0.9, 0.98), weight_decay=0.01)
    stream, test = (torch.from_numpy(np.concatenate(part, 1)) for part in (data.train, data.held_out))
    test = _stretches(test, config.context_frames, _TESTED, np.random.default_rng(seed)).to(device)
    best, best_loss, tests = network.state_dict(), math.inf, 0
    done = 0.0
    while done < 1:
        done = share_done()
        codes = _stretches(stream, config.context_frames, _BATCH, rng)[:, : int(rng.choice(book_choices))]
        loss = _step(network, optimizer, codes.to(device), _LEARNING_RATE * _schedule(done))
        held_out = None
        if done >= (tests + 1) / _TESTS:
            tests += 1
            with torch.no_grad():
                held_out = float(bits_per_code(network, test[:, : max(book_choices)]))
            if held_out < best_loss:
                best_loss = held_out
                best = {name: value.clone() for name, value in network.state_dict().items()}
        report(done, loss, held_out)
    network.load_state_dict(best)
    return network.cpu().eval()


def _step(network: CodeTransformer, optimizer: torch.optim.Optimizer, codes: Tensor, learning_rate: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    loss = bits_per_code(network, codes, _PREDICTED)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _schedule(done: float) -> float:
    """A rise, then half a cosine down to 2 %."""
    return min(1.0, (done + 1e-3) / _WARMUP) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))


def bits_per_code(network: CodeTransformer, codes: Tensor, predicted: int | None = None) -> Tensor:
    """Mean over all frames, or over so many drawn ones.

    Shape: codes [B, n, F] -> [].
    """
    hidden = network(codes).flatten(0, 1)
    flat = codes.transpose(1, 2).flatten(0, 1)
    if predicted is not None and predicted < len(flat):
        drawn = torch.randperm(len(flat), device=flat.device)[:predicted]
        hidden, flat = hidden[drawn], flat[drawn]
    return F.cross_entropy(network.logits(hidden, flat).flatten(0, 1), flat.flatten()) / math.log(2)


def _stretches(stream: Tensor, frames: int, count: int, rng: np.random.Generator) -> Tensor:
    """Shape: stream [K, F] -> [count, K, min(frames, F)]."""
    frames = min(frames, stream.shape[1])
    starts = rng.integers(0, stream.shape[1] - frames + 1, count)
    return torch.stack([stream[:, s : s + frames] for s in starts])
