"""Band-limited change of the sampling rate of whole signals, of streams and of parts of a signal.

Output sample n lies at time n / target_rate. It is a sum of the input samples around that time, weighted by a sinc
under a Kaiser window (Crochiere and Rabiner, Multirate Digital Signal Processing, 1983). The response is flat within
0.05 dB up to 0.95 of the lower of the two Nyquist frequencies. Aliases and images are more than 80 dB down.

The sums are exact. Samples and weights are rounded to multiples of 2^-24, so that float64 holds every partial sum of
audio within [-8, 8]. The result therefore depends neither on block sizes nor on the number of threads nor on the CPU.
"""

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ResamplingFilter", "StreamResampler", "resample", "resampled_length", "resampling_filter"]

# A Kaiser window of 85 dB, 100 periods of the lower rate on each side, has a transition band of
# (85 - 7.95) / (2.285 * 2 * pi * 100) * 2 = 0.054 Nyquist. Around a cutoff of 0.972 it spans 0.945 to 0.999.
_HALF_WIDTH = 100
_CUTOFF = 0.972
_BETA = 0.1102 * (85.0 - 8.7)

_GROUP_OUTPUTS = 64  # at least, for each row of the matrix product
_TABLE_LIMIT = 1 << 20  # weights of one pair of rates, 8 MB
_INTERPOLATION_STEPS = 1024  # per period of the lower rate; linear interpolation is then exact to -120 dB
_CHUNK_VALUES = 1 << 20  # in one temporary array, 8 MB
_ONE = 1 << 24  # samples and weights are rounded to multiples of its reciprocal


def resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    """Number of samples that `samples` become: ceil(samples * target_rate / source_rate)."""
    return -(-samples * target_rate // source_rate)


class ResamplingFilter:
    """Computes any range of output samples from the input samples around it.

    For rates with a common divisor, such as 44.1 and 24 kHz, outputs n and n + up have the same weights. The weights of
    all `up` phases are computed once, and a matrix product applies them. Other rates have too many phases for a table:
    their weights are interpolated between 1024 phases.

    Attributes:
        up, down: target_rate / source_rate as a fraction in lowest terms.

    Args:
        source_rate, target_rate: In Hz.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        divisor = math.gcd(source_rate, target_rate)
        self.up, self.down = target_rate // divisor, source_rate // divisor
        if self.is_identity:
            return
        self._scale = min(1.0, self.up / self.down)  # lower rate / source rate
        self._reach = math.ceil(_HALF_WIDTH / self._scale)  # input samples
        repeats = math.ceil(_GROUP_OUTPUTS / self.up)
        self._group_outputs, self._group_inputs = repeats * self.up, repeats * self.down
        taps = self._group_inputs + 2 * self._reach
        self._is_periodic = self._group_outputs * taps <= _TABLE_LIMIT
        if self._is_periodic:
            times = torch.arange(self._group_outputs, dtype=torch.float64) * self.down / self.up
            self._chunk = max(1, _CHUNK_VALUES // taps) * self._group_outputs
        else:
            # The filter varies slowly from one input sample to the next where the source rate is the higher one.
            self._steps = math.ceil(_INTERPOLATION_STEPS * self._scale)
            taps = 2 * self._reach + 2
            times = torch.arange(self._steps + 1, dtype=torch.float64) / self._steps
            self._chunk = max(1, _CHUNK_VALUES // taps)
        self._taps = taps
        self._weights = self._impulse_response(torch.arange(taps) - self._reach - times[:, None])  # [times, taps]

    @property
    def is_identity(self) -> bool:
        """Whether the two rates are equal."""
        return self.up == self.down

    def input_range(self, start: int, stop: int) -> tuple[int, int]:
        """Input samples [first, last) that output samples [start, stop) depend on; it may exceed the signal."""
        if self.is_identity:
            return start, stop
        return start * self.down // self.up - self._reach, (stop - 1) * self.down // self.up + self._reach + 2

    def outputs_before(self, last: int) -> int:
        """Number of output samples that depend on no input sample from `last` on."""
        if self.is_identity:
            return last
        # Output n depends on samples up to floor(n * down / up) + reach + 1.
        return max(0, -(-(last - self._reach - 1) * self.up // self.down))

    def __call__(self, audio: Tensor, first: int, start: int, stop: int) -> Tensor:
        """Output samples [start, stop).

        Args:
            audio: Input samples from number `first` on. All others are taken as zero.
            first, start, stop: See above; `first` counts at the source rate, the others at the target rate.

        Shape: [C, t] -> [C, stop - start].
        """
        if self.is_identity:
            return _zero_padded(audio, start - first, stop - first)
        if stop - start > self._chunk:
            edges = [*range(start, stop, self._chunk), stop]
            return torch.cat([self(audio, first, a, b) for a, b in pairwise(edges)], -1)
        if stop <= start:
            return audio[:, :0]
        apply = self._periodic if self._is_periodic else self._interpolated
        return apply(audio, first, start, stop).to(audio.dtype)

    def _periodic(self, audio: Tensor, first: int, start: int, stop: int) -> Tensor:
        group, after = start // self._group_outputs, -(-stop // self._group_outputs)
        begin = group * self._group_inputs - self._reach
        length = (after - group - 1) * self._group_inputs + self._taps
        audio = _rounded(_zero_padded(audio, begin - first, begin - first + length))
        groups = audio.unfold(-1, self._taps, self._group_inputs) @ self._weights.T  # [C, groups, outputs]
        begin = group * self._group_outputs
        return groups.flatten(1)[:, start - begin : stop - begin]

    def _interpolated(self, audio: Tensor, first: int, start: int, stop: int) -> Tensor:
        n = torch.arange(start, stop)
        nearest = n * self.down // self.up
        step = (n * self.down % self.up).double() * self._steps / self.up
        row = step.long()
        weights = torch.lerp(self._weights[row], self._weights[row + 1], (step - row)[:, None])
        begin, end = int(nearest[0]) - self._reach, int(nearest[-1]) + self._reach + 2
        audio = _rounded(_zero_padded(audio, begin - first, end - first))
        windows = audio.unfold(-1, self._taps, 1)[:, nearest - nearest[0]]
        return torch.einsum("cnk,nk->cn", windows, _rounded(weights))

    def _impulse_response(self, time: Tensor) -> Tensor:
        """Weight of an input sample that lies `time` input samples after the output sample."""
        periods = time * self._scale
        root = (1 - (periods / _HALF_WIDTH).square()).clamp(min=0).sqrt()
        window = torch.special.i0(_BETA * root) / torch.special.i0(torch.tensor(_BETA, dtype=torch.float64))
        weights = self._scale * _CUTOFF * torch.sinc(_CUTOFF * periods) * window
        return _rounded(weights.where(periods.abs() <= _HALF_WIDTH, 0.0))


@lru_cache(maxsize=16)
def resampling_filter(source_rate: int, target_rate: int) -> ResamplingFilter:
    """The filter for two rates in Hz; the last 16 are kept, with at most 8 MB each."""
    return ResamplingFilter(source_rate, target_rate)


def resample(audio: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resamples a whole signal, with silence assumed before and after it.

    Args:
        audio: Any floating dtype, which the result has too. It is returned as it is if the rates are equal.
        source_rate, target_rate: In Hz.

    Shape: [..., T] -> [..., ceil(T * target_rate / source_rate)].
    """
    apply = resampling_filter(source_rate, target_rate)
    if apply.is_identity:
        return audio
    length = resampled_length(audio.shape[-1], source_rate, target_rate)
    signals = audio.reshape(math.prod(audio.shape[:-1]), audio.shape[-1])
    return apply(signals, 0, 0, length).reshape(*audio.shape[:-1], length)


class StreamResampler:
    """Resamples a signal that arrives in blocks; the blocks together equal `resample` of the whole.

    It holds the input samples that later output samples depend on: 100 periods of the lower rate on either side.

    Args:
        source_rate, target_rate: In Hz.
        channels: Number of channels.
    """

    def __init__(self, source_rate: int, target_rate: int, channels: int) -> None:
        self._filter = resampling_filter(source_rate, target_rate)
        self._held = torch.zeros(channels, 0)
        self._first = 0  # number of the first held input sample
        self._next = 0  # number of the next output sample

    def push(self, audio: Tensor) -> Tensor:
        """Takes the next input samples and returns the output samples that depend on no later ones.

        Shape: [C, t] -> [C, t'], with any t.
        """
        if self._filter.is_identity:
            return audio
        held = torch.cat([self._held, audio], -1)
        return self._advance(held, self._filter.outputs_before(self._first + held.shape[-1]))

    def flush(self) -> Tensor:
        """Returns the output samples that are left at the end of the signal.

        Shape: -> [C, t'].
        """
        end = self._first + self._held.shape[-1]
        return self._advance(self._held, resampled_length(end, self._filter.down, self._filter.up))

    def _advance(self, held: Tensor, stop: int) -> Tensor:
        stop = max(stop, self._next)
        audio = self._filter(held, self._first, self._next, stop)
        first = max(self._first, self._filter.input_range(stop, stop + 1)[0])
        self._held, self._first, self._next = held[:, first - self._first :].clone(), first, stop
        return audio


def _rounded(values: Tensor) -> Tensor:
    """To multiples of 1 / _ONE, in float64."""
    return (values.double() * _ONE).round_().div_(_ONE)


def _zero_padded(audio: Tensor, start: int, stop: int) -> Tensor:
    """Samples [start, stop), with zeros before and after the signal."""
    before, after = max(0, -start), max(0, stop - audio.shape[-1])
    return F.pad(audio, (before, after))[:, start + before : stop + before]
