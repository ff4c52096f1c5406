"""`codec export`."""

import argparse
from pathlib import Path

import torch

from codec.commands.model_options import add_model_option
from codec.model_file import save_model
from codec.models import MODEL_NAME, load, model_path

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    export = commands.add_parser(
        "export",
        help="model to transformers, ONNX or half-precision weights",
        description="transformers: a folder for EncodecModel.from_pretrained and AutoProcessor.from_pretrained, with a "
        "model card. onnx: encoder.onnx and decoder.onnx for whole signals, encoder_stream.onnx and "
        "decoder_stream.onnx if the model streams, and onnx.json, which describes them. half: model.safetensors with "
        "float16 weights, half the size. The rounded weights are a model with another fingerprint.",
    )
    export.add_argument("target", metavar="DIR", type=Path, help="folder to write to")
    export.add_argument("--to", choices=("transformers", "onnx", "half"), required=True, help="format")
    export.add_argument(
        "--licence", metavar="NAME", help="licence of the weights, for the model card of --to transformers"
    )
    add_model_option(export)
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    # Imported here, because only this command needs the formats of other packages.
    from codec.interop import export_transformers
    from codec.interop.onnx.export import export_onnx

    if options.to != "transformers" and options.licence is not None:
        raise ValueError(f"--licence needs --to transformers, got --to {options.to}, which has no model card")
    model = model_path(options.model)
    codec = load(model)
    run = model.parent if model.name == MODEL_NAME else None
    if options.to == "onnx":
        written = export_onnx(codec, options.target)
    elif options.to == "half":
        written = [options.target / MODEL_NAME]
        options.target.mkdir(parents=True, exist_ok=True)
        save_model(codec, written[0], torch.float16)
    else:
        written = export_transformers(codec, options.target, run, options.licence)
    for path in written:
        print(path)
    return 0
