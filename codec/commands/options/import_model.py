"""The options of `codec import`."""

import argparse

from codec.commands.options.files import file_path

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    command = commands.add_parser(
        "import",
        help="model of encodec, transformers or audiocraft to a model of this program",
        description="Converts a state dict of the encodec package (.th), a local folder of transformers' "
        "EncodecModel or DacModel, "
        "or a compression checkpoint of audiocraft (compression_state_dict.bin, checkpoint.th). The result encodes, "
        "decodes, and can be trained further (init_from=OUT). Nothing is downloaded.",
    )
    command.add_argument("source", metavar="IN", type=file_path, help="file or folder of the other package")
    command.add_argument(
        "target", metavar="OUT", type=file_path, help=".safetensors file, or folder to write model.safetensors to"
    )
    command.set_defaults(module="codec.commands.import_model")
