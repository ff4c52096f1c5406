"""`codec export`."""

import argparse
from pathlib import Path

import torch

from codec.commands.model_options import MODEL_NAME, add_checkpoint_option, model_path, read_model

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    export = commands.add_parser(
        "export",
        help="a model, for other packages",
        description="transformers: a folder that it loads with EncodecModel.from_pretrained and "
        "AutoProcessor.from_pretrained, with a model card that tells what the run's folder tells. onnx: encoder.onnx "
        "and decoder.onnx for whole signals, encoder_stream.onnx and decoder_stream.onnx for steps of a stream if the "
        "model streams, and onnx.json, which describes them. half: model.safetensors with rounded weights in half the "
        "bytes, a model of its own.",
    )
    export.add_argument("target", metavar="DIR", type=Path, help="folder to write to")
    export.add_argument("--to", choices=("transformers", "onnx", "half"), required=True, help="in which format")
    export.add_argument(
        "--licence", metavar="NAME", help="of the weights, for the model card of transformers; default: not stated"
    )
    add_checkpoint_option(export)
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    # Here, because only this command needs other people's formats.
    from codec.interop import export_transformers
    from codec.interop.onnx.export import export_onnx

    if options.to != "transformers" and options.licence is not None:
        raise ValueError(f"--licence is for the model card of --to transformers; {options.to} has none")
    model = model_path(options.checkpoint)
    codec = read_model(model)
    run = model.parent if model.name == MODEL_NAME else None
    if options.checkpoint is None:
        print(f"using {model}")
    if options.to == "onnx":
        written = export_onnx(codec, options.target)
    elif options.to == "half":
        written = [options.target / MODEL_NAME]
        options.target.mkdir(parents=True, exist_ok=True)
        codec.save(written[0], torch.float16)
    else:
        written = export_transformers(codec, options.target, run, options.licence)
    for path in written:
        print(path)
    return 0
