"""Noise, music or other recordings mixed into each segment."""

from collections.abc import Sequence

import torch
from torch import Tensor

from codec.audio import AudioFileError
from codec.ranges import Decibels, Name, Probability, SampleRate, check_ranges
from data.corpora import load_manifest
from data.entries import DataError
from data.sources import SourceReader, limit_peak
from data.transforms.draws import draw

__all__ = ["RandomNoise", "mix_at_snr", "noise_at_snr"]

_MAX_ATTEMPTS = 20


class RandomNoise:
    """Mixes recordings from a folder or a manifest into segments, at a random signal-to-noise ratio (SNR).

    Data for speech enhancement is made so. `data.MixtureDataset` mixes the sources of the corpus itself.

    Args:
        root: A folder, or a manifest.
        sample_rate, channels: Those of the codec.
        minimum_snr_db, maximum_snr_db: Range of the SNR, uniform in dB.
        probability: Of a segment that noise is mixed into.
        sources: Names of the manifest's sources to use; None uses all. The sources of a folder are its subfolders.

    Raises:
        ValueError: A number is out of range, or there is no such audio.
    """

    def __init__(
        self,
        root: Name,
        sample_rate: SampleRate,
        channels: int = 1,
        minimum_snr_db: Decibels = 0.0,
        maximum_snr_db: Decibels = 30.0,
        probability: Probability = 0.5,
        sources: Sequence[str] | None = None,
    ) -> None:
        check_ranges(RandomNoise.__init__, locals())
        if not minimum_snr_db <= maximum_snr_db:
            raise DataError(f"expected minimum_snr_db <= maximum_snr_db, got {minimum_snr_db:g} and {maximum_snr_db:g}")
        self.minimum_snr_db = minimum_snr_db
        self.maximum_snr_db = maximum_snr_db
        self.probability = probability
        manifest = load_manifest(root, by_subfolder=True)
        if sources is not None:
            if unknown := sorted(set(sources) - set(manifest.sources)):
                raise DataError(f"{root} has the sources {list(manifest.sources)}, it lacks {unknown}")
            manifest = manifest.where(lambda entry: entry.source in sources)
        self._reader = SourceReader(manifest, sample_rate, channels)

    def __call__(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        """Shape: [C, T] -> [C, T].

        Raises:
            DataError: Most of the noise does not decode.
        """
        mixes = draw(0, 1, generator) < self.probability
        snr_db = draw(self.minimum_snr_db, self.maximum_snr_db, generator)
        return mix_at_snr(audio, self._read(audio.shape[-1], generator), snr_db) if mixes else audio

    def _read(self, samples: int, generator: torch.Generator) -> Tensor:
        for _ in range(_MAX_ATTEMPTS):
            try:
                return self._reader.read(draw(0, 1, generator), samples)
            except AudioFileError as error:
                last = error
        raise DataError(f"{_MAX_ATTEMPTS} reads of noise failed, most of it is corrupt: {last}")


def mix_at_snr(audio: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """The sum, with the power of the audio `snr_db` above that of the noise, scaled to a peak of at most 1.

    If one of them is silent, there is no such ratio, and the audio is returned.

    Shape: [C, T], [C, T] -> [C, T].
    """
    return limit_peak(audio + noise_at_snr(audio, noise, snr_db))


def noise_at_snr(audio: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """The noise, scaled to a power of `snr_db` below that of the audio; zeros if one of them is silent.

    Shape: [C, T], [C, T] -> [C, T].
    """
    power, noise_power = (float(each.double().square().mean()) for each in (audio, noise))
    return noise * (power / noise_power * 10 ** (-snr_db / 10)) ** 0.5 if noise_power else noise
