"""The file `entropy.safetensors`: a trained transformer in whole numbers, and which codec it belongs to."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from codec.atomic_file import atomic_write
from codec.bitstream.entropy.integer_network import IntegerNetwork, Table
from codec.bitstream.entropy.integers import EXPONENT_BITS, WEIGHT_BITS
from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig, Layer

__all__ = ["ENTROPY_NAME", "EntropyFileError", "EntropyModel"]

ENTROPY_NAME = "entropy.safetensors"  # beside the codec's model file
_LOG2_E = 1 / math.log(2)
_BITS_LIMIT = 24  # after the binary point


class EntropyFileError(ValueError):
    """A model of the coding `transformer` cannot be read or does not fit; the message says what was found."""


class EntropyModel:
    """A network in whole numbers, with the fingerprint of its codec.

    Attributes:
        fingerprint: 16 hex digits that any change of the model alters.

    Args:
        config: Size of the network.
        tables: Its weights.
        codec: Fingerprint of the codec whose codes it expects.
    """

    def __init__(self, config: EntropyConfig, tables: dict[str, Table], codec: str) -> None:
        self.config = config
        self.tables = tables
        self.codec = codec
        digest = hashlib.sha256(self._description().encode())
        for name, table in sorted(tables.items()):
            digest.update(name.encode() + table.values.astype("<i4").tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def of(cls, network: CodeTransformer, codec: str) -> "EntropyModel":
        """The trained network, rounded."""
        return cls(network.config, {name: _rounded(name, w) for name, w in _weights(network).items()}, codec)

    def network(self) -> IntegerNetwork:
        """Ready to expect codes."""
        return IntegerNetwork(self.config, self.tables)

    def save(self, path: Path) -> None:
        """Writes the file; equal models are equal files."""
        with atomic_write(path) as temporary:
            arrays = {name: np.ascontiguousarray(table.values) for name, table in self.tables.items()}
            save_file(arrays, temporary, metadata={"entropy": self._description()})

    @classmethod
    def load(cls, path: Path) -> "EntropyModel":
        """Reads what `save` wrote.

        Raises:
            EntropyFileError: The file is missing, damaged, or not such a model's.
        """
        if not path.is_file():
            raise EntropyFileError(f"no entropy model at {path}")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise EntropyFileError(f"{path} is damaged or no safetensors file ({error})") from error
        if "entropy" not in metadata:
            raise EntropyFileError(f"{path} describes no entropy model: it was not written by codec train-entropy")
        try:
            description = json.loads(metadata["entropy"])
            config = EntropyConfig.from_dict(description["config"])
            tables = {name: Table(arrays[name], int(bits)) for name, bits in description["bits"].items()}
            _check(config, tables)
            return cls(config, tables, str(description["codec"]))
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise EntropyFileError(f"{path} does not fit its own config: {str(error)[:200]}") from error

    def _description(self) -> str:
        bits = {name: table.bits for name, table in sorted(self.tables.items())}
        return json.dumps({"codec": self.codec, "config": self.config.to_dict(), "bits": bits})


def _weights(network: CodeTransformer) -> dict[str, Tensor]:
    """By the names of the integer network: matrices [inputs, outputs], exponents to the base 2."""
    dim, heads = network.config.dim, network.config.heads
    found: dict[str, Tensor] = {
        "past": network.past,
        "present": network.present,
        "book": network.book,
        "head": network.head.transpose(1, 2) * _LOG2_E,
        "bias": network.bias * _LOG2_E,
        "mlp.up": network.mlp.up.weight.t(),
        "mlp.down": network.mlp.down.weight.t(),
    }
    for i, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)
        query, key, value = layer.qkv.weight.chunk(3)
        found |= {
            f"layers.{i}.query": query.t() * (_LOG2_E / math.sqrt(dim // heads)),
            f"layers.{i}.key": key.t(),
            f"layers.{i}.value": value.t(),
            f"layers.{i}.out": layer.out.weight.t(),
            f"layers.{i}.distance": layer.distance * _LOG2_E,
            f"layers.{i}.mlp.up": layer.mlp.up.weight.t(),
            f"layers.{i}.mlp.down": layer.mlp.down.weight.t(),
        }
    return found


def _is_exponent(name: str) -> bool:
    """Whether a table is added to exponents, with their binary point and 32 bits."""
    return name == "bias" or name.endswith(".distance")


def _rounded(name: str, weight: Tensor) -> Table:
    values: NDArray[np.float64] = weight.detach().to(torch.float64).cpu().numpy()
    if _is_exponent(name):
        limit = (1 << 31) - 1
        return Table(np.clip(np.round(values * 2.0**EXPONENT_BITS), -limit, limit).astype(np.int32), EXPONENT_BITS)
    # The largest |w| < 2^e, so w * 2^(15 - e) fits 16 bits.
    exponent = math.frexp(float(np.abs(values).max()))[1]
    bits = min(max(WEIGHT_BITS - exponent, 0), _BITS_LIMIT)
    limit = (1 << WEIGHT_BITS) - 1
    return Table(np.clip(np.round(values * 2.0**bits), -limit, limit).astype(np.int16), bits)


def _check(config: EntropyConfig, tables: dict[str, Table]) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(w.shape) for name, w in _weights(CodeTransformer(config)).items()}
    if set(wanted) != set(tables):
        raise ValueError(f"tables {', '.join(sorted(set(wanted) ^ set(tables)))} are missing or too many")
    for name, (values, bits) in tables.items():
        dtype = np.int32 if _is_exponent(name) else np.int16
        if values.dtype != dtype or values.shape != wanted[name]:
            raise ValueError(f"{name} must be {dtype.__name__} {wanted[name]}, got {values.dtype} {values.shape}")
        if not 0 <= bits <= _BITS_LIMIT:
            raise ValueError(f"{name} has {bits} bits after the point, 0 to {_BITS_LIMIT} are possible")
