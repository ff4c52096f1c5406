"""Quantizers: latents to codes and back.

`Quantizer` says what a quantizer of your own has to offer. Nothing here imports other packages of the project.
"""

from codec.quantization.estimators import rotation, straight_through
from codec.quantization.factorized import FactorizedQuantizer
from codec.quantization.finite_scalar import FiniteScalarQuantizer
from codec.quantization.quantizer import CodebookUsage, Quantizer, QuantizerOutput
from codec.quantization.residual import ResidualVectorQuantizer
from codec.quantization.simvq import SimVQ

__all__ = [
    "CodebookUsage",
    "FactorizedQuantizer",
    "FiniteScalarQuantizer",
    "Quantizer",
    "QuantizerOutput",
    "ResidualVectorQuantizer",
    "SimVQ",
    "rotation",
    "straight_through",
]
