"""Segments that are mixtures of the corpus's sources, as EnCodec and HILCodec are trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le, MinLen
from torch import Tensor

from codec.ranges import Decibels, NonNegativeFloat, Weights
from data.entries import DataError
from data.manifest import Manifest
from data.segments import Segment, SegmentDataset, checked_weights, numpy_generator, torch_generator
from data.sources import level_dbfs, limit_peak
from data.transforms import Transform, noise_at_snr

__all__ = ["Mixture", "MixtureDataset", "is_clipped"]

_FIRST_STREAM = 1 << 32  # of random numbers; those below belong to segments and transforms
_STREAMS_PER_ATTEMPT = 64
_MAX_ATTEMPTS = 20
_FULL_SCALE = 0.999
_CLIPPED_SAMPLES = 3  # neighbours at full scale


@dataclass(frozen=True)
class Mixture:
    """One kind of mixture.

    Args:
        parts: For each recording of the mixture, the roles that it is drawn from: [[speech], [music, noise]] is a
            recording of speech and one of music or noise.
        probability: Relative frequency.
        snr_db: Lowest and highest level of the first part above each of the others, uniform in dB. None gives each part
            a gain of its own.
        reverb: Whether the reverberation of `MixtureDataset` may be applied.
    """

    parts: Sequence[Sequence[str]]
    probability: NonNegativeFloat = 1.0
    snr_db: tuple[Decibels, Decibels] | None = None
    reverb: bool = True


class MixtureDataset:
    """Draws one of several kinds of mixtures, its recordings and their gains; each segment by the seed and its index.

    With the settings of `configs/data/encodec_mix.yaml`, it is the data of EnCodec (Défossez et al., 2022, section
    4.1). A mixture whose peak exceeds 1 is rejected, and another is drawn, up to 20 times. The last is scaled.

    Args:
        manifest, sample_rate, channels, segment_seconds, seed, source_weights: As in `SegmentDataset`. The weights
            count among the sources that a part may be drawn from.
        mixtures: The kinds, each a `Mixture` or a mapping with its arguments.
        roles: Role -> names of the sources that have it. None makes each source its own role.
        level_dbfs: Root mean square that each recording is brought to before its gain. None keeps its level.
        minimum_gain_db, maximum_gain_db: Range of the gain of each recording, uniform in dB.
        reject_clipped: Also reject recordings that are clipped, see `is_clipped`.
        reverb: Transform such as `data.RandomReverb`, applied to the mixture.

    Raises:
        DataError: A mixture is malformed or names a role without sources, or a number is out of range.
    """

    def __init__(
        self,
        manifest: Manifest,
        sample_rate: int,
        channels: int,
        segment_seconds: float,
        seed: int = 0,
        source_weights: Weights | None = None,
        *,
        mixtures: Annotated[Sequence[Mixture], MinLen(1)],
        roles: Mapping[str, Sequence[str]] | None = None,
        level_dbfs: Annotated[float, Ge(-200), Le(0)] | None = None,
        minimum_gain_db: Decibels = 0.0,
        maximum_gain_db: Decibels = 0.0,
        reject_clipped: bool = False,
        reverb: Transform | None = None,
    ) -> None:
        if not minimum_gain_db <= maximum_gain_db:
            raise DataError(f"expected minimum_gain_db <= maximum_gain_db, got {minimum_gain_db} and {maximum_gain_db}")
        self.sample_rate, self.seed = sample_rate, seed
        self.level_dbfs, self.reject_clipped, self.reverb = level_dbfs, reject_clipped, reverb
        self.gain_db = minimum_gain_db, maximum_gain_db
        self.mixtures = [_as_mixture(mixture) for mixture in mixtures]
        frequencies = [mixture.probability for mixture in self.mixtures]
        if not sum(frequencies) > 0:
            raise DataError(f"expected mixtures, at least one with a probability above 0, got {frequencies}")
        self._cumulative = np.cumsum(frequencies) / sum(frequencies)

        weights = checked_weights(manifest, source_weights)
        if roles is None:
            roles = {source: [source] for source in weights}
        datasets: dict[frozenset[str], SegmentDataset] = {}  # by the sources that they are drawn from

        def dataset_of(part: Sequence[str]) -> SegmentDataset:
            names = _sources_of(part, roles, weights)
            if names not in datasets:
                some = manifest.where(lambda entry: entry.source in names)
                some_weights = {name: weights[name] for name in names}
                datasets[names] = SegmentDataset(some, sample_rate, channels, segment_seconds, seed, some_weights)
            return datasets[names]

        self._parts = [[dataset_of(part) for part in mixture.parts] for mixture in self.mixtures]
        self.segment_samples = self._parts[0][0].segment_samples
        self._length = max(1, round(manifest.seconds * sample_rate / self.segment_samples))

    def __len__(self) -> int:
        """Number of segments that have the duration of the manifest."""
        return self._length

    def __getitem__(self, index: int) -> Segment:
        """Shape: audio [C, T].

        Raises:
            DataError: Most of the corpus does not decode.
        """
        skipped: dict[str, None] = {}
        for attempt in range(_MAX_ATTEMPTS):
            stream = _FIRST_STREAM + attempt * _STREAMS_PER_ATTEMPT
            random = numpy_generator(self.seed, index, stream=stream)
            drawn = min(int(np.searchsorted(self._cumulative, random.random(), side="right")), len(self.mixtures) - 1)
            mixture = self.mixtures[drawn]
            segments = [part.draw(index, stream + 1 + number) for number, part in enumerate(self._parts[drawn])]
            skipped |= dict.fromkeys(path for segment in segments for path in segment.skipped_files)
            audio = self._mix(mixture, [segment.audio for segment in segments], random)
            rejected = self.reject_clipped and any(is_clipped(segment.audio) for segment in segments)
            if not rejected and float(audio.abs().max()) <= 1:
                break
        audio = limit_peak(audio)
        if self.reverb is not None and mixture.reverb:
            audio = self.reverb(audio, torch_generator(self.seed, index, _FIRST_STREAM - 1))
        return Segment(audio, "+".join(segment.source for segment in segments), tuple(skipped))

    def _mix(self, mixture: Mixture, parts: Sequence[Tensor], random: np.random.Generator) -> Tensor:
        """The sum, whose peak may exceed 1."""
        audio, *others = [self._with_gain(part, random.uniform(*self.gain_db)) for part in parts]
        if mixture.snr_db is not None:
            others = [noise_at_snr(audio, other, random.uniform(*mixture.snr_db)) for other in others]
        return sum(others, audio)

    def _with_gain(self, audio: Tensor, gain_db: float) -> Tensor:
        level = level_dbfs(audio)
        if self.level_dbfs is not None and level > -np.inf:
            gain_db += self.level_dbfs - level
        return audio * 10 ** (gain_db / 20)


def _as_mixture(given: Mixture | Mapping[str, Any]) -> Mixture:
    try:
        mixture = given if isinstance(given, Mixture) else Mixture(**given)
    except TypeError as error:
        raise DataError(
            f"expected mixtures with parts, probability, snr_db and reverb, got {given} ({error})"
        ) from error
    snr_db = mixture.snr_db
    if (
        not mixture.parts
        or not 0 <= mixture.probability < np.inf
        or (snr_db is not None and not snr_db[0] <= snr_db[1])
    ):
        raise DataError(
            f"expected a mixture with at least one part, a probability >= 0 and snr_db [lowest, highest], got {mixture}"
        )
    return mixture


def _sources_of(
    part: Sequence[str], roles: Mapping[str, Sequence[str]], weights: Mapping[str, float]
) -> frozenset[str]:
    """Sources of a part that have a weight."""
    if unknown := [role for role in part if role not in roles]:
        raise DataError(f"a mixture has the roles {unknown}, expected some of {list(roles)}")
    names = frozenset(str(source) for role in part for source in roles[role]).intersection(weights)
    if not names:
        raise DataError(f"no source of the corpus has one of the roles {list(part)}, its sources are {list(weights)}")
    return names


def is_clipped(audio: Tensor) -> bool:
    """Whether three neighbouring samples of a channel are at full scale: at 0.999 or above, or at -0.999 or below.

    Shape: [C, T] -> bool.
    """
    if audio.shape[-1] < _CLIPPED_SAMPLES:
        return False
    return any(bool((side >= _FULL_SCALE).unfold(-1, _CLIPPED_SAMPLES, 1).all(-1).any()) for side in (audio, -audio))
