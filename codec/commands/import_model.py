"""`codec import`."""

import argparse
from contextlib import nullcontext

from codec.atomic_file import new_folder
from codec.audio import readable
from codec.commands.facts import of_model
from codec.commands.messages import check_absent, print_table
from codec.interop import read_foreign
from codec.model_file import MODEL_NAME, save_model

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns the exit status."""
    target = options.target if options.target.suffix == ".safetensors" else options.target / MODEL_NAME
    if target.name == MODEL_NAME and (target.parent / "checkpoints").exists():
        raise ValueError(f"{readable(target.parent)} is a training run, and its {MODEL_NAME} would be replaced: "
                         "choose another folder")  # fmt: skip
    check_absent(target)
    model = read_foreign(options.source)
    with new_folder(options.target) if options.target != target else nullcontext():
        save_model(model.codec, target)
    print(f"read {readable(options.source)} as {model.origin}")
    print_table(of_model(model.codec, target).rows)
    return 0
