"""Quantizers: latents to codes and back.

`Quantizer` says what a quantizer of your own has to offer. Nothing here imports other packages of the project.
"""

from codec.quantization.quantizer import CodebookUsage, Quantizer, QuantizerOutput
from codec.quantization.residual import ResidualVectorQuantizer

__all__ = ["CodebookUsage", "Quantizer", "QuantizerOutput", "ResidualVectorQuantizer"]
