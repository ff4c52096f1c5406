"""Models of other packages, in and out: encodec, transformers, audiocraft; export to ONNX.

Nothing of theirs is needed to read or write their files, but the package onnx to write its own; nothing is downloaded,
and nothing a file names is run.
"""

from codec.interop.reading import ForeignModel, read_foreign
from codec.interop.transformers import export_transformers
from codec.interop.weights import ForeignModelError

__all__ = ["ForeignModel", "ForeignModelError", "export_transformers", "read_foreign"]
