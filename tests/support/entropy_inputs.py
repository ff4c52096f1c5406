"""Small networks over codes: with made-up weights, as floats and as whole numbers."""

import numpy as np
import torch
from numpy.typing import NDArray

from codec.bitstream.entropy.integer_network import Context, Table
from codec.bitstream.entropy.model_file import EntropyModel, _is_exponent, _weights
from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig

SMALL = EntropyConfig(codebooks=3, codebook_size=16, context_frames=9, dim=16, layers=2, heads=2, hidden=24)
CODEC = "0123456789abcdef"


def made_up(config: EntropyConfig = SMALL, seed: int = 0) -> CodeTransformer:
    """With weights as large as training makes them: none starts at zero."""
    torch.manual_seed(seed)
    network = CodeTransformer(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in ("bias", "book") or name.endswith(("out.weight", "down.weight")):
                parameter.normal_(0, 0.3)
            elif name in ("past", "present", "head"):
                parameter *= 3
    return network.eval()


def by_rule(config: EntropyConfig = SMALL, largest: bool = False) -> EntropyModel:
    """Weights from a rule in whole numbers, which no random generator can change; or all of the largest magnitude."""
    tables = {}
    for k, (name, weight) in enumerate(_weights(CodeTransformer(config)).items()):
        steps = np.arange(weight.numel(), dtype=np.int64).reshape(weight.shape) * 40_503 + 1009 * k
        values = (steps ^ steps >> 7) % 65_535 - 32_767
        if largest:
            values = np.where(values < 0, -32_767, 32_767)
        if _is_exponent(name):
            tables[name] = Table((values >> 4).astype(np.int32), 10)
        else:
            bits = 0 if largest else 15 if name in ("past", "present", "book") else 17
            tables[name] = Table(values.astype(np.int16), bits)
    return EntropyModel(config, tables, CODEC)


def codes_of(books: int, frames: int, size: int = 16) -> np.ndarray:
    """By such a rule, too."""
    steps = np.arange(books * frames, dtype=np.int64).reshape(books, frames) * 40_503
    return (steps ^ steps >> 7) % 65_537 % size


Integers = NDArray[np.int64]


def expected(model: EntropyModel, codes: Integers, pieces: list[int]) -> Integers:
    """Weights [F, n, size] of all codes, given to the network in pieces that end at these frames."""
    context = Context(model.network(), len(codes))
    blocks = np.split(codes, pieces, axis=1)
    return np.concatenate([weights for block in blocks for _, weights in context.expect_all(block)])
