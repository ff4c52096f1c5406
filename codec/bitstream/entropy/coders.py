"""Which coding a file gets, and what reads it."""

from pathlib import Path
from typing import NamedTuple

from codec.bitstream.block_coding import BlockCoding, FixedCoding
from codec.bitstream.entropy.adaptive import AdaptiveCoding
from codec.bitstream.entropy.model_file import EntropyFileError, EntropyModel
from codec.bitstream.entropy.transformer_coding import TransformerCoding
from codec.bitstream.header import CODINGS, BitstreamError, BitstreamHeader
from codec.config import CodecConfig

__all__ = ["Coders", "Storage"]

# Frames between sync points: what they cost in bytes against what one bad byte costs in audio, see the README.
SYNC_FRAMES = {"fixed": 512, "adaptive": 4096, "transformer": 1024}


class Storage(NamedTuple):
    """The fields of a header that tell how codes are stored."""

    coding: str
    sync_blocks: int
    entropy_model: str | None


class Coders:
    """Codings for the codes of one codec.

    Args:
        config, fingerprint: Of the codec.
        path: Of the model of the coding `transformer`, which is read when it is first needed.
    """

    def __init__(self, config: CodecConfig, fingerprint: str, path: Path | None) -> None:
        self.config = config
        self.fingerprint = fingerprint
        self.path = path
        self._model: EntropyModel | None = None

    def storage(self, coding: str | None, block_frames: int, few: bool) -> Storage:
        """How a new file is stored.

        Args:
            coding: The one wanted, or None for the best there is.
            block_frames: Frames of a whole block.
            few: Whether blocks are so short that range coding, which fills words of 4 bytes, gains nothing.

        Raises:
            EntropyFileError: Its model is missing, damaged, or that of another codec.
            ValueError: There is no such coding.
        """
        if coding is None:
            coding = "fixed" if few else "transformer" if self.path is not None and self.path.is_file() else "adaptive"
        if coding not in CODINGS:
            raise ValueError(f"coding must be one of {', '.join(CODINGS)}, got {coding}")
        model = self._load().fingerprint if coding == "transformer" else None
        return Storage(coding, max(1, SYNC_FRAMES[coding] // block_frames), model)

    def coder(self, header: BitstreamHeader, name: str) -> BlockCoding:
        """What reads or writes the codes of a file of this header.

        Args:
            name: What messages call the file.

        Raises:
            EntropyFileError: The file needs a model that is missing, damaged, or that of another codec.
            BitstreamError: It needs another model.
        """
        if header.coding == "fixed":
            return FixedCoding(header)
        if header.coding == "adaptive":
            return AdaptiveCoding(header.codebooks, header.bits_per_code)
        try:
            model = self._load()
        except EntropyFileError as error:
            raise EntropyFileError(f"{name} needs the entropy model {header.entropy_model}: {error}") from error
        if model.fingerprint != header.entropy_model:
            raise BitstreamError(
                f"{name} was encoded with entropy model {header.entropy_model}, but {self.path} is {model.fingerprint}"
            )
        return TransformerCoding(model.network(), header.codebooks)

    def _load(self) -> EntropyModel:
        if self.path is None:
            raise EntropyFileError("no entropy model was given")
        if self._model is None:
            model = EntropyModel.load(self.path)
            shape = model.config.codebooks, model.config.codebook_size
            if model.codec != self.fingerprint or shape != (self.config.codebooks, self.config.codebook_size):
                raise EntropyFileError(f"{self.path} belongs to codec {model.codec}, not to {self.fingerprint}")
            self._model = model
        return self._model
