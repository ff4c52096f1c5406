"""Import and export of models: encodec, transformers, audiocraft, ONNX.

The other packages are not needed, except onnx for the export to ONNX. Nothing is downloaded, and no code that a file
names is executed.
"""

from codec.interop.reading import ForeignModel, read_foreign
from codec.interop.transformers import export_transformers
from codec.interop.weights import ForeignModelError

__all__ = ["ForeignModel", "ForeignModelError", "export_transformers", "read_foreign"]
