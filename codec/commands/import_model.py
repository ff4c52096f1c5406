"""`codec import`."""

import argparse
from pathlib import Path

from codec.commands.facts import of_model
from codec.commands.messages import print_table
from codec.model_file import save_model
from codec.models import MODEL_NAME

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    command = commands.add_parser(
        "import",
        help="model of encodec, transformers or audiocraft to a model of this program",
        description="Converts a state dict of the encodec package (.th), a local folder of transformers' EncodecModel, "
        "or a compression checkpoint of audiocraft (compression_state_dict.bin, checkpoint.th). The result encodes, "
        "decodes, and can be trained further (init_from=OUT). Nothing is downloaded.",
    )
    command.add_argument("source", metavar="IN", type=Path, help="file or folder of the other package")
    command.add_argument(
        "target", metavar="OUT", type=Path, help=f".safetensors file, or folder to write {MODEL_NAME} to"
    )
    command.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> int:
    from codec.interop import read_foreign  # imported here, because only this command needs it

    target = options.target if options.target.suffix == ".safetensors" else options.target / MODEL_NAME
    if target.name == MODEL_NAME and (target.parent / "checkpoints").exists():
        raise ValueError(f"{target.parent} is a training run, and its {MODEL_NAME} would be replaced: "
                         "choose another folder")  # fmt: skip
    model = read_foreign(options.source)
    if options.target != target:
        options.target.mkdir(parents=True, exist_ok=True)
    save_model(model.codec, target)
    print(f"read {options.source} as {model.origin}")
    print_table(of_model(model.codec, target).rows)
    return 0
