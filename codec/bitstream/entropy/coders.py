"""Chooses the coding of a new file, and makes the block coder for a header."""

from pathlib import Path
from typing import NamedTuple

from codec.bitstream.block_coder import BlockCoder, FixedCoder
from codec.bitstream.entropy.adaptive import AdaptiveCoder
from codec.bitstream.entropy.model_file import EntropyFileError, EntropyModel
from codec.bitstream.entropy.transformer import TransformerCoder
from codec.bitstream.header import CODINGS, BitstreamError, BitstreamHeader
from codec.config import CodecConfig

__all__ = ["RANDOM_ACCESS_FRAMES", "EntropyCoders", "StorageFields"]

# Frames between random access points. More of them cost bytes; fewer of them lose more audio to a corrupt byte.
RANDOM_ACCESS_FRAMES = {"fixed": 512, "adaptive": 4096, "transformer": 1024}


class StorageFields(NamedTuple):
    """The fields of a header that say how codes are stored."""

    coding: str
    random_access_interval: int
    entropy_model: str | None


class EntropyCoders:
    """Makes block coders for the codes of one codec.

    Args:
        config, fingerprint: Of the codec.
        path: Entropy model of the coding `transformer`, which is read when it is first needed; None for no model.
    """

    def __init__(self, config: CodecConfig, fingerprint: str, path: Path | None) -> None:
        self.config = config
        self.fingerprint = fingerprint
        self.path = path
        self._model: EntropyModel | None = None

    def storage_fields(self, coding: str | None, block_frames: int, prefer_fixed: bool) -> StorageFields:
        """Header fields of a new file.

        Args:
            coding: One of `CODINGS`. None chooses `transformer` if its model exists, otherwise `adaptive`.
            block_frames: Frames of a full block.
            prefer_fixed: None for `coding` chooses `fixed` instead. In blocks of few frames the range coder, which
                writes words of 4 bytes, saves nothing.

        Raises:
            EntropyFileError: The entropy model is missing, corrupt, or belongs to another codec.
            ValueError: The coding is unknown.
        """
        if coding is None:
            has_model = self.path is not None and self.path.is_file()
            coding = "fixed" if prefer_fixed else "transformer" if has_model else "adaptive"
        if coding not in CODINGS:
            raise ValueError(f"coding must be one of {', '.join(CODINGS)}, got {coding}")
        entropy_model = self._entropy_model().fingerprint if coding == "transformer" else None
        return StorageFields(coding, max(1, RANDOM_ACCESS_FRAMES[coding] // block_frames), entropy_model)

    def block_coder(self, header: BitstreamHeader, name: str) -> BlockCoder:
        """The block coder of a file with this header.

        Args:
            name: Name of the file in messages.

        Raises:
            EntropyFileError: The entropy model is missing, corrupt, or belongs to another codec.
            BitstreamError: The file needs another entropy model.
        """
        if header.coding == "fixed":
            return FixedCoder(header)
        if header.coding == "adaptive":
            return AdaptiveCoder(header.num_codebooks, header.bits_per_code)
        try:
            model = self._entropy_model()
        except EntropyFileError as error:
            raise EntropyFileError(f"{name} needs the entropy model {header.entropy_model}: {error}") from error
        if model.fingerprint != header.entropy_model:
            raise BitstreamError(
                f"{name} was encoded with entropy model {header.entropy_model}, but {self.path} is {model.fingerprint}"
            )
        return TransformerCoder(model.network(), header.num_codebooks)

    def _entropy_model(self) -> EntropyModel:
        if self.path is None:
            raise EntropyFileError("no entropy model was given")
        if self._model is None:
            model = EntropyModel.load(self.path)
            shape = model.config.num_codebooks, model.config.codebook_size
            expected_shape = self.config.num_codebooks, max(self.config.codebook_sizes)
            if model.codec_fingerprint != self.fingerprint or shape != expected_shape:
                raise EntropyFileError(
                    f"{self.path} belongs to codec {model.codec_fingerprint}, but the codec given is {self.fingerprint}"
                )
            self._model = model
        return self._model
