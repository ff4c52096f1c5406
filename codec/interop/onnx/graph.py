"""Builds an ONNX graph from ONNX operators."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

__all__ = ["OPSET", "Graph"]

OPSET = 18  # first with axes of reductions as inputs; onnxruntime from 1.14 (February 2023)
_IR_VERSION = 8  # file format of that opset; readers refuse newer formats
_LARGEST = 2_000_000_000  # bytes; a protocol buffer holds at most 2 GiB
_END = np.iinfo(np.int64).max  # Slice reads it as the end of the axis


class Graph:
    """An ONNX graph under construction.

    Values are identified by their names. A method that computes a value adds a node and returns the name. Names depend
    on the order of the calls alone, so equal networks give equal files.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        """Adds an input; axes of any length are given by name."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, value: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def weight(self, name: str, tensor: Tensor) -> str:
        self._weights[name] = numpy_helper.from_array(tensor.detach().cpu().contiguous().numpy(), name)
        return name

    def integers(self, *values: int) -> str:
        """Shape: -> [len(values)] int64."""
        return self._constant("_".join(["integers", *map(str, values)]), np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """Shape: -> [] int64."""
        return self._constant(f"integer_{value}", np.array(value, np.int64))

    def number(self, value: float) -> str:
        """Shape: -> [] float32."""
        return self._constant(f"number_{value!r}", np.array(value, np.float32))

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator and returns its first output. An empty name leaves an optional input out."""
        return self.nodes(operator, 1, *inputs, **attributes)[0]

    def nodes(self, operator: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Adds an operator and returns its first `count` outputs."""
        names = [f"{operator.lower()}_{len(self._nodes)}" + (f"_{i}" if i else "") for i in range(count)]
        self._nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def length(self, x: str, axis: int) -> str:
        """Shape: -> [1] int64."""
        return self.node("Shape", x, start=axis, end=axis + 1)

    def slice(self, x: str, axis: int, start: int, end: int | None = None) -> str:
        """x[start:end] along one axis."""
        bounds = (self.integers(start), self.integers(_END if end is None else end))
        return self.node("Slice", x, *bounds, self.integers(axis))

    def model(self, name: str, metadata: Mapping[str, Any]) -> onnx.ModelProto:
        """The finished and checked graph.

        Args:
            metadata: Written into the file; values that are not strings as JSON.

        Raises:
            ValueError: The weights are too large for an ONNX file.
            onnx.checker.ValidationError, onnx.shape_inference.InferenceError: The graph is not valid.
        """
        size = sum(len(weight.raw_data) for weight in self._weights.values())
        if size > _LARGEST:
            raise ValueError(f"the {name} has weights of {size} bytes, an ONNX file holds at most {_LARGEST}")
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._weights.values()))
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="codec"
        )
        helper.set_model_props(model, {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()})
        onnx.checker.check_model(model, full_check=True)
        return model

    def _constant(self, name: str, value: np.ndarray) -> str:
        name = name.replace("-", "minus").replace(".", "point")
        self._weights.setdefault(name, numpy_helper.from_array(value, name))
        return name
