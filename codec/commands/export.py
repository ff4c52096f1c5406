"""`codec export`."""

import argparse

import torch

from codec.atomic_file import new_folder
from codec.audio import readable
from codec.commands.messages import check_absent
from codec.interop import export_transformers
from codec.interop.onnx.export import export_onnx
from codec.model_file import MODEL_NAME, save_model
from codec.models import load, model_path

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    if options.to != "transformers" and options.licence is not None:
        raise ValueError(f"--licence needs --to transformers, got --to {options.to}, which has no model card")
    model = model_path(options.model)
    codec = load(model)
    run = model.parent if model.name == MODEL_NAME else None
    if options.to == "onnx":
        written = export_onnx(codec, options.target)
    elif options.to == "half":
        written = [options.target / MODEL_NAME]
        check_absent(written[0])
        with new_folder(options.target):
            save_model(codec, written[0], torch.float16)
    else:
        written = export_transformers(codec, options.target, run, options.licence)
    for path in written:
        print(readable(path))
    return 0
