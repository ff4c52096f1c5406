"""`codec export`."""

import argparse
from pathlib import Path

from codec.commands.model_options import MODEL_NAME, add_checkpoint_option, model_path
from codec.model import Codec

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    export = commands.add_parser(
        "export",
        help="a model, for other packages",
        description="Writes a folder that transformers loads with EncodecModel.from_pretrained and "
        "AutoProcessor.from_pretrained, with a model card that tells what the run's folder tells.",
    )
    export.add_argument("target", metavar="DIR", type=Path, help="folder to write to")
    export.add_argument("--to", choices=("transformers",), required=True, help="for which package")
    export.add_argument("--licence", metavar="NAME", help="of the weights, for the model card; default: not stated")
    add_checkpoint_option(export)
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from codec.interop import export_transformers  # here, because only this command needs it

    model = model_path(options.checkpoint)
    codec = Codec.load(model)
    run = model.parent if model.name == MODEL_NAME else None
    if options.checkpoint is None:
        print(f"using {model}")
    for path in export_transformers(codec, options.target, run, options.licence):
        print(path)
    return 0
