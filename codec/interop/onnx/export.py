"""ONNX files of a codec, for runtimes without torch.

`encoder.onnx` and `decoder.onnx` process whole signals, or one segment of a codec with segments. `encoder_stream.onnx`
and `decoder_stream.onnx`, for codecs without look-ahead, process one step of a stream with its state. `onnx.json`
describes the inputs and outputs of each.
"""

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.atomic_file import write_files
from codec.model import Codec
from codec.model_file import fingerprint

if TYPE_CHECKING:
    import onnx

    from codec.interop.onnx.codec_graph import CodecGraph

__all__ = ["export_onnx"]

_FILES = ("encoder.onnx", "decoder.onnx", "encoder_stream.onnx", "decoder_stream.onnx", "onnx.json")
_SIGNAL = (
    "Any number of signals and of samples, at least 1 each. The samples become ceil(samples / hop_samples) frames, and "
    "decoding returns whole frames: cut the result to the length of the signal."
)
_SEGMENT = (
    "The graphs code one segment; the last segment of a signal may be shorter. Segment i begins at i * stride_samples. "
    "To join decoded segments, multiply sample t (from 0) of each by 0.5 - |(t + 1) / (n + 1) - 0.5|, where n is the "
    "number of samples of the first decoded segment, add them at their positions and divide by the sum of the weights."
)
_STREAM = (
    "A step takes a whole number of frames and all states. The states of a new stream are zeros; after that, each "
    "output NAME_next is the input NAME of the next step. The results of all steps, joined, equal those of the graph "
    "for whole signals. The last step of an encoder may have any number of samples, at least 1."
)
_FIRST_STEP = (
    " A first step that is not the last one needs first_step_frames frames: its start is padded by reflection."
)
_NO_STREAM = "None: only causal codecs without segments and without normalization can stream."
_LOOK_AHEAD = "None: a step returns the frames that it is given, but this network looks ahead. The program streams it."


def export_onnx(codec: Codec, directory: Path) -> list[Path]:
    """Writes the files that this module describes into `directory`, `onnx.json` last.

    The graphs take float32 on any device. Codes are int64; the first k codebooks are the codes at a lower bandwidth.
    Equal codecs give equal files.

    Args:
        codec: It is not changed.
        directory: Created if it is missing; an earlier export in it is replaced.

    Returns:
        The files written.

    Raises:
        ValueError: The package onnx is missing, a layer cannot be expressed, the codec is too large, or the directory
            holds other files with these names; nothing was written.
        OSError: A file cannot be written; nothing was written.
    """
    if find_spec("onnx") is None:
        raise ValueError("export to ONNX needs the package onnx: bash scripts/setup.sh onnx")
    # Imported here, because only the export needs onnx.
    from codec.interop.onnx.codec_graph import write_decoder, write_encoder
    from codec.interop.onnx.layers import has_steps

    there = [name for name in _FILES if (directory / name).exists()]
    if there and "onnx.json" not in there:
        raise ValueError(f"{directory} holds a {there[0]} that was not exported from here: choose another folder")
    graphs = {
        "encoder.onnx": write_encoder(codec, streaming=False),
        "decoder.onnx": write_decoder(codec, streaming=False),
    }
    if codec.config.can_stream and has_steps(codec):
        graphs["encoder_stream.onnx"] = write_encoder(codec, streaming=True)
        graphs["decoder_stream.onnx"] = write_decoder(codec, streaming=True)
    contents = {name: graph.model.SerializeToString(deterministic=True) for name, graph in graphs.items()}
    contents["onnx.json"] = (json.dumps(_describe(codec, graphs), indent=2) + "\n").encode()
    written = write_files(directory, contents)
    for name in set(there) - set(contents):  # of an earlier export that could stream
        (directory / name).unlink()
    return written


def _describe(codec: Codec, graphs: "Mapping[str, CodecGraph]") -> dict[str, Any]:
    from codec.interop.onnx.graph import OPSET

    config = codec.config
    about: dict[str, Any] = {
        "fingerprint": fingerprint(codec),
        "opset": OPSET,
        "sample_rate": config.sample_rate,
        "channels": config.channels,
        "hop_samples": config.hop_samples,
        "num_codebooks": config.num_codebooks,
        "codebook_size": config.codebook_size,
        "bandwidths": [{"kbps": kbps, "num_codebooks": config.codebooks_for(kbps)} for kbps in config.bandwidths_kbps],
        "normalize": config.normalize,
        "lengths": _SIGNAL,
    }
    if config.segment_seconds is not None:
        samples = config.segment_samples_or(0)
        about["segments"] = {"samples": samples, "stride_samples": codec.config.segment_stride(0), "about": _SEGMENT}
    streams = "encoder_stream.onnx" in graphs
    about["streaming"] = _STREAM if streams else _LOOK_AHEAD if config.can_stream else _NO_STREAM
    if max(graph.first_step_frames for graph in graphs.values()) > 1:
        about["streaming"] += _FIRST_STEP
    about["graphs"] = {name: _describe_graph(graph) for name, graph in graphs.items()}
    return about


def _describe_graph(graph: "CodecGraph") -> dict[str, Any]:
    inputs, outputs = _tensors(graph.model.graph.input), _tensors(graph.model.graph.output)
    if not graph.states:
        return {"inputs": inputs, "outputs": outputs}
    return {
        "inputs": [tensor for tensor in inputs if tensor["name"] not in graph.states],
        "outputs": outputs[: -len(graph.states)],
        "states": [tensor | {"next": f"{tensor['name']}_next"} for tensor in inputs if tensor["name"] in graph.states],
        "first_step_frames": graph.first_step_frames,
    }


def _tensors(values: "Iterable[onnx.ValueInfoProto]") -> list[dict[str, Any]]:
    from onnx.helper import tensor_dtype_to_np_dtype

    return [
        {
            "name": value.name,
            "dtype": tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            "shape": [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        }
        for value in values
    ]
