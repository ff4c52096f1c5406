"""Small networks over codes, in floats and in integers, and codes for them."""

import numpy as np
import torch
from numpy.typing import NDArray

from codec.bitstream.entropy.integer_network import Context, Table
from codec.bitstream.entropy.model_file import EntropyModel, _is_exponent, _weights
from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig

Integers = NDArray[np.int64]
SMALL = EntropyConfig(num_codebooks=3, codebook_size=16, context_frames=9, dim=16, layers=2, heads=2, hidden=24)
CODEC_FINGERPRINT = "0123456789abcdef"


def random_network(config: EntropyConfig = SMALL, seed: int = 0) -> CodeTransformer:
    """With weights as large as after training; none is zero."""
    torch.manual_seed(seed)
    network = CodeTransformer(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in ("bias", "codebook") or name.endswith(("out.weight", "down.weight")):
                parameter.normal_(0, 0.3)
            elif name in ("past", "present", "head"):
                parameter *= 3
    return network.eval()


def computed_model(config: EntropyConfig = SMALL, largest: bool = False) -> EntropyModel:
    """Weights from an integer formula, independent of random generators; or all of the largest magnitude."""
    tables = {}
    for k, (name, weight) in enumerate(_weights(CodeTransformer(config)).items()):
        steps = np.arange(weight.numel(), dtype=np.int64).reshape(weight.shape) * 40_503 + 1009 * k
        values = (steps ^ steps >> 7) % 65_535 - 32_767
        if largest:
            values = np.where(values < 0, -32_767, 32_767)
        if _is_exponent(name):
            tables[name] = Table((values >> 4).astype(np.int32), 10)
        else:
            bits = 0 if largest else 15 if name in ("past", "present", "codebook") else 17
            tables[name] = Table(values.astype(np.int16), bits)
    return EntropyModel(config, tables, CODEC_FINGERPRINT)


def computed_codes(num_codebooks: int, frames: int, size: int = 16) -> Integers:
    """Codes from such a formula."""
    steps = np.arange(num_codebooks * frames, dtype=np.int64).reshape(num_codebooks, frames) * 40_503
    return (steps ^ steps >> 7) % 65_537 % size


def predicted_weights(model: EntropyModel, codes: Integers, splits: list[int]) -> Integers:
    """Weights [F, k, size] of all codes, which the network gets in pieces that end at `splits`."""
    context = Context(model.network(), len(codes))
    blocks = np.split(codes, splits, axis=1)
    return np.concatenate([weights for block in blocks for _, weights in context.predict_all(block)])
