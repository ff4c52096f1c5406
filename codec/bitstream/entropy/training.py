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

__all__ = ["Split", "bits_per_code", "minutes_progress", "split", "steps_progress", "train"]

_BATCH_SIZE = 8
_PREDICTED_FRAMES = 512  # per step: the heads cost more than all layers before them
_LEARNING_RATE = 3e-3
_WARMUP_FRACTION = 0.05
_VALIDATIONS = 12
_VALIDATION_EXCERPTS = 24
_HELD_OUT_FRACTION = 0.05  # of the frames
_MIN_FRAMES = 100


@dataclass(frozen=True)
class Split:
    """Codes for training and codes for validation, [K, F] for each signal."""

    train: list[NDArray[np.int64]]
    held_out: list[NDArray[np.int64]]


def split(signals: Sequence[NDArray[np.int64]], seed: int) -> Split:
    """Holds out random whole signals until they have 5 % of the frames, or the last 10 % of a single signal.

    Raises:
        ValueError: There are fewer than 100 frames.
    """
    frames = sum(signal.shape[1] for signal in signals)
    if frames < _MIN_FRAMES:
        raise ValueError(f"expected at least {_MIN_FRAMES} frames of codes to train on, got {frames}")
    if len(signals) == 1:
        cut = frames - frames // 10
        return Split([signals[0][:, :cut]], [signals[0][:, cut:]])
    order = np.random.default_rng(seed).permutation(len(signals))
    held_out: set[int] = set()
    held_out_frames = 0
    for i in order[:-1].tolist():  # at least one signal is left for training
        held_out.add(i)
        held_out_frames += signals[i].shape[1]
        if held_out_frames >= _HELD_OUT_FRACTION * frames:
            break
    train = [signal for i, signal in enumerate(signals) if i not in held_out]
    return Split(train, [signals[i] for i in order.tolist() if i in held_out])


def minutes_progress(minutes: float) -> Callable[[], float]:
    """Returns a function that gives the elapsed fraction of `minutes` from now on, at most 1; 1 if `minutes` is 0.

    Two such trainings differ in their number of steps, and therefore in their results.
    """
    start = time.monotonic()
    return lambda: 1.0 if minutes == 0 else min(1.0, (time.monotonic() - start) / (60 * minutes))


def steps_progress(steps: int) -> Callable[[], float]:
    """Returns a function whose calls give 1 / steps, 2 / steps ... 1."""
    fractions = (step / steps for step in range(1, steps + 1))
    return lambda: next(fractions)


def train(
    data: Split,
    config: EntropyConfig,
    codebook_counts: Sequence[int],
    progress: Callable[[], float],
    seed: int,
    codebooks: Tensor | None = None,
    report: Callable[[float, float, float | None], None] = lambda fraction, loss, held_out: None,
) -> CodeTransformer:
    """Trains a network and returns the weights with the lowest loss on held-out codes, on the CPU, in eval mode.

    Args:
        data: From `split`.
        config: Size of the network.
        codebook_counts: Numbers of codebooks of the codec's bandwidths; each step draws one.
        progress: Called before each step; returns the fraction of the training at its end, which sets the learning
            rate. The step for which it returns 1 is the last. See `minutes_progress` and `steps_progress`.
        seed: Of weights and draws. With `steps_progress`, the same seed gives bit-identical networks on the same CPU
            with the same number of threads.
        codebooks: See `CodeTransformer`. Training runs on their device.
        report: Called with the fraction of the training, the bits per code, and those of held-out codes or None.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    device = torch.device("cpu") if codebooks is None else codebooks.device
    network = CodeTransformer(config, None if codebooks is None else codebooks.cpu()).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), _LEARNING_RATE, (0.9, 0.98), weight_decay=0.01)
    stream, validation = (torch.from_numpy(np.concatenate(part, 1)) for part in (data.train, data.held_out))
    validation = _excerpts(validation, config.context_frames, _VALIDATION_EXCERPTS, np.random.default_rng(seed))
    validation = validation.to(device)
    best, best_loss, validations = network.state_dict(), math.inf, 0
    fraction = 0.0
    while fraction < 1:
        fraction = progress()
        codes = _excerpts(stream, config.context_frames, _BATCH_SIZE, rng)[:, : int(rng.choice(codebook_counts))]
        loss = _step(network, optimizer, codes.to(device), _LEARNING_RATE * _schedule(fraction))
        held_out = None
        if fraction >= (validations + 1) / _VALIDATIONS:
            validations += 1
            with torch.no_grad():
                held_out = float(bits_per_code(network, validation[:, : max(codebook_counts)]))
            if held_out < best_loss:
                best_loss = held_out
                best = {name: value.clone() for name, value in network.state_dict().items()}
        report(fraction, loss, held_out)
    network.load_state_dict(best)
    return network.cpu().eval()


def _step(network: CodeTransformer, optimizer: torch.optim.Optimizer, codes: Tensor, learning_rate: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    loss = bits_per_code(network, codes, _PREDICTED_FRAMES)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _schedule(fraction: float) -> float:
    """Linear warm-up, then half a cosine down to 2 %."""
    return min(1.0, (fraction + 1e-3) / _WARMUP_FRACTION) * (0.02 + 0.49 * (1 + math.cos(math.pi * fraction)))


def bits_per_code(network: CodeTransformer, codes: Tensor, predicted_frames: int | None = None) -> Tensor:
    """Mean bits per code.

    Args:
        predicted_frames: Number of frames drawn for the mean; None for all.

    Shape: codes [B, k, F] -> [].
    """
    hidden = network(codes).flatten(0, 1)
    flat = codes.transpose(1, 2).flatten(0, 1)
    if predicted_frames is not None and predicted_frames < len(flat):
        drawn = torch.randperm(len(flat), device=flat.device)[:predicted_frames]
        hidden, flat = hidden[drawn], flat[drawn]
    return F.cross_entropy(network.logits(hidden, flat).flatten(0, 1), flat.flatten()) / math.log(2)


def _excerpts(stream: Tensor, frames: int, count: int, rng: np.random.Generator) -> Tensor:
    """Shape: stream [K, F] -> [count, K, min(frames, F)]."""
    frames = min(frames, stream.shape[1])
    starts = rng.integers(0, stream.shape[1] - frames + 1, count)
    return torch.stack([stream[:, s : s + frames] for s in starts])
