"""From the rate and channels of any audio to those of a codec, block by block."""

import math

import torch
from torch import Tensor

__all__ = ["Resampler", "mix_channels"]

_TABLE_LIMIT = 1 << 21  # weights kept: 8 MB


class Resampler:
    """Band-limited resampling of a signal that arrives in blocks.

    Output sample n lies at time n / target; it is the sum of the input under a sinc of cutoff 0.99 times half the lower
    rate, windowed by a squared cosine to 6 zero crossings on either side. That is what
    `torchaudio.functional.resample` computes from a whole signal by default; its table of
    target * (source + 2 * reach) weights is out of reach for rates with no common divisor, so only the weights within
    reach of each of the `target` phases are kept here, and of rates so far apart that even these are many, none.

    Args:
        source_rate, target_rate: In Hz.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        divisor = math.gcd(source_rate, target_rate)
        self.source, self.target = source_rate // divisor, target_rate // divisor
        if self.source == self.target:
            return
        cutoff = 0.99 * min(self.source, self.target)  # in units of the reduced rates, twice the cutoff frequency
        self._reach = math.ceil(6 * self.source / cutoff)
        self._cutoff = cutoff / self.source
        self._taps = torch.arange(-self._reach, self._reach + 2)
        fits = self.target * len(self._taps) <= _TABLE_LIMIT
        self._table = self._weights(torch.arange(self.target)) if fits else None
        self._start = -self._reach  # position in the signal of the first held sample; before 0 there are zeros
        self._held: Tensor | None = None
        self._next = 0  # output sample

    def push(self, audio: Tensor) -> Tensor:
        """The output that needs no later input.

        Shape: audio [C, t] -> [C, t'], any t.
        """
        if self.source == self.target:
            return audio
        held = audio.new_zeros(audio.shape[0], self._reach) if self._held is None else self._held
        held = torch.cat([held, audio], -1)
        end = self._start + held.shape[-1]
        # Output n reaches floor(n * source / target) + reach + 1, which must be before `end`.
        ready = max(self._next, -(-(end - self._reach - 1) * self.target // self.source))
        return self._produce(held, ready)

    def flush(self, channels: int) -> Tensor:
        """The rest: ceil(T * target / source) samples in all for T samples of input.

        Shape: -> [channels, t'].
        """
        if self.source == self.target or self._held is None:
            return torch.zeros(channels, 0)
        end = self._start + self._held.shape[-1]
        held = torch.nn.functional.pad(self._held, (0, self._reach + 1))
        return self._produce(held, -(-end * self.target // self.source))

    def _produce(self, held: Tensor, ready: int) -> Tensor:
        n = torch.arange(self._next, ready)
        near = n * self.source // self.target
        windows = held[:, near[:, None] + self._taps - self._start]
        phase = n % self.target
        weights = self._weights(phase) if self._table is None else self._table[phase]
        audio = torch.einsum("cnk,nk->cn", windows, weights)
        first = ready * self.source // self.target - self._reach  # the first sample that output `ready` needs
        self._held, self._start, self._next = held[:, first - self._start :].clone(), first, ready
        return audio

    def _weights(self, phase: Tensor) -> Tensor:
        """Output n has phase n % target; its taps surround the input sample at or before it.

        Shape: phase [n] -> [n, taps].
        """
        after = (phase * self.source % self.target).double()[:, None] / self.target
        time = (self._taps - after) * self._cutoff  # in zero crossings
        window = (time.clamp(-6, 6) * math.pi / 12).cos().square()
        return (time.clamp(-6, 6).sinc() * window * self._cutoff).float()


def mix_channels(audio: Tensor, channels: int) -> Tensor:
    """Mono is duplicated to stereo; more channels than wanted are averaged to mono, and that duplicated to stereo.

    Shape: audio [C, T] -> [channels, T].
    """
    if audio.shape[0] == channels:
        return audio
    return audio.mean(0, keepdim=True).expand(channels, -1)
