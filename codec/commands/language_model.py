"""The option --lm of `codec encode` and `codec decode`."""

from pathlib import Path

from codec.bitstream.encodec.segments import LanguageModel
from codec.config import CodecConfig

__all__ = ["LM_DESCRIPTION", "load_language_model"]

LM_DESCRIPTION = "weights (.th) of the encodec package's language model"


def load_language_model(path: Path | None, config: CodecConfig) -> LanguageModel | None:
    """Loads the language model of the encodec package, if there is a path."""
    if path is None:
        return None
    from codec.bitstream.encodec.language_model import read_encodec_lm  # imported here, because few files need it

    return read_encodec_lm(path, config)
