"""The file `entropy.safetensors`: a trained transformer in integers, and the fingerprint of its codec."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save
from torch import Tensor

from codec.atomic_file import atomic_write
from codec.bitstream.entropy.integer_network import IntegerNetwork, Table
from codec.bitstream.entropy.integers import EXPONENT_BITS, WEIGHT_BITS
from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig, Layer
from codec.tensor_file import read_tensors

__all__ = ["ENTROPY_NAME", "EntropyFileError", "EntropyModel"]

ENTROPY_NAME = "entropy.safetensors"  # in the folder of the codec's model file
_LOG2_E = 1 / math.log(2)
_MAX_BITS = 24  # after the binary point


class EntropyFileError(ValueError):
    """An entropy model cannot be read or belongs to another codec. The message is one sentence for the user."""


class EntropyModel:
    """A network in integers.

    Attributes:
        fingerprint: 16 hex digits that depend on the whole content.

    Args:
        config: Size of the network.
        tables: Its weights.
        codec_fingerprint: Of the codec whose codes it predicts.
    """

    def __init__(self, config: EntropyConfig, tables: dict[str, Table], codec_fingerprint: str) -> None:
        self.config = config
        self.tables = tables
        self.codec_fingerprint = codec_fingerprint
        digest = hashlib.sha256(self._description().encode())
        for name, table in sorted(tables.items()):
            digest.update(name.encode() + table.values.astype("<i4").tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def from_network(cls, network: CodeTransformer, codec_fingerprint: str) -> "EntropyModel":
        """Rounds the weights of a trained network."""
        tables = {name: _rounded(name, weight) for name, weight in _weights(network).items()}
        return cls(network.config, tables, codec_fingerprint)

    def network(self) -> IntegerNetwork:
        """The network that predicts codes."""
        return IntegerNetwork(self.config, self.tables)

    def save(self, path: Path) -> None:
        """Writes the file. Equal models give equal files.

        Raises:
            OSError: It cannot be written.
        """
        with atomic_write(path) as temporary:
            arrays = {name: np.ascontiguousarray(table.values) for name, table in self.tables.items()}
            temporary.write_bytes(save(arrays, metadata={"entropy": self._description()}))

    @classmethod
    def load(cls, path: Path) -> "EntropyModel":
        """Reads a file of `save`.

        Raises:
            EntropyFileError: The file is missing, corrupt, or not an entropy model.
            OSError: It may not be read.
        """
        if not path.is_file():
            raise EntropyFileError(f"there is no entropy model at {path}: codec train-entropy makes one")
        try:
            metadata, arrays = read_tensors(path, "numpy")
        except SafetensorError as error:
            raise EntropyFileError(f"{path} is corrupt or not a safetensors file ({error})") from error
        if "entropy" not in metadata:
            raise EntropyFileError(f"{path} is not an entropy model: codec train-entropy did not write it")
        try:
            description = json.loads(metadata["entropy"])
            config = EntropyConfig.from_dict(description["config"])
            tables = {name: Table(arrays[name], int(bits)) for name, bits in description["bits"].items()}
            _check(config, tables)
            return cls(config, tables, str(description["codec"]))
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise EntropyFileError(f"{path} does not match its own config: {str(error)[:200]}") from error

    def _description(self) -> str:
        bits = {name: table.bits for name, table in sorted(self.tables.items())}
        return json.dumps({"codec": self.codec_fingerprint, "config": self.config.to_dict(), "bits": bits})


def _weights(network: CodeTransformer) -> dict[str, Tensor]:
    """The weights under the names of the integer network: matrices [inputs, outputs], exponents to the base 2."""
    dim, heads = network.config.dim, network.config.heads
    weights: dict[str, Tensor] = {
        "past": network.past,
        "present": network.present,
        "codebook": network.codebook,
        "head": network.head.transpose(1, 2) * _LOG2_E,
        "bias": network.bias * _LOG2_E,
        "mlp.up": network.mlp.up.weight.t(),
        "mlp.down": network.mlp.down.weight.t(),
    }
    for i, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)
        query, key, value = layer.qkv.weight.chunk(3)
        weights |= {
            f"layers.{i}.query": query.t() * (_LOG2_E / math.sqrt(dim // heads)),
            f"layers.{i}.key": key.t(),
            f"layers.{i}.value": value.t(),
            f"layers.{i}.out": layer.out.weight.t(),
            f"layers.{i}.distance": layer.distance * _LOG2_E,
            f"layers.{i}.mlp.up": layer.mlp.up.weight.t(),
            f"layers.{i}.mlp.down": layer.mlp.down.weight.t(),
        }
    return weights


def _is_exponent(name: str) -> bool:
    """Whether a table is added to exponents. Such a table has their binary point and 32 bits."""
    return name == "bias" or name.endswith(".distance")


def _rounded(name: str, weight: Tensor) -> Table:
    values: NDArray[np.float64] = weight.detach().to(torch.float64).cpu().numpy()
    if _is_exponent(name):
        limit = (1 << 31) - 1
        return Table(np.clip(np.round(values * 2.0**EXPONENT_BITS), -limit, limit).astype(np.int32), EXPONENT_BITS)
    # max |w| < 2^exponent, so w * 2^(15 - exponent) fits into 16 bits.
    exponent = math.frexp(float(np.abs(values).max()))[1]
    bits = min(max(WEIGHT_BITS - exponent, 0), _MAX_BITS)
    limit = (1 << WEIGHT_BITS) - 1
    return Table(np.clip(np.round(values * 2.0**bits), -limit, limit).astype(np.int16), bits)


def _check(config: EntropyConfig, tables: dict[str, Table]) -> None:
    with torch.device("meta"):
        shapes = {name: tuple(w.shape) for name, w in _weights(CodeTransformer(config)).items()}
    if set(shapes) != set(tables):
        raise ValueError(f"tables {', '.join(sorted(set(shapes) ^ set(tables)))} are missing or unknown")
    for name, (values, bits) in tables.items():
        dtype = np.int32 if _is_exponent(name) else np.int16
        if values.dtype != dtype or values.shape != shapes[name]:
            raise ValueError(f"{name} must be {dtype.__name__} {shapes[name]}, got {values.dtype} {values.shape}")
        if not 0 <= bits <= _MAX_BITS:
            raise ValueError(f"{name} must have 0 to {_MAX_BITS} bits after the binary point, got {bits}")
