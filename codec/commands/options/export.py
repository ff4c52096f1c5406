"""The options of `codec export`."""

import argparse

from codec.commands.options.files import file_path
from codec.commands.options.model import add_model_option

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    export = commands.add_parser(
        "export",
        help="model to transformers, ONNX or half-precision weights",
        description="transformers: a folder for EncodecModel.from_pretrained (DacModel for the network "
        "of DAC) and AutoProcessor.from_pretrained, with a "
        "model card. onnx: encoder.onnx and decoder.onnx for whole signals, encoder_stream.onnx and "
        "decoder_stream.onnx if the model streams, and onnx.json, which describes them. half: model.safetensors with "
        "float16 weights, half the size. The rounded weights are a model with another fingerprint.",
    )
    export.add_argument("target", metavar="DIR", type=file_path, help="folder to write to")
    export.add_argument("--to", choices=("transformers", "onnx", "half"), required=True, help="format")
    export.add_argument(
        "--licence", metavar="NAME", help="licence of the weights, for the model card of --to transformers"
    )
    add_model_option(export)
    export.set_defaults(module="codec.commands.export")
