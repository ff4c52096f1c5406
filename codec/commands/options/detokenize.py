"""The options of `codec detokenize`."""

import argparse

from codec.commands.options.files import add_jobs_option, add_output_options, file_path
from codec.commands.options.model import add_model_options

__all__ = ["add"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    command = commands.add_parser(
        "detokenize",
        help="shards of codes back to audio",
        description="Decodes a folder that codec tokenize has made to .wav files, in the subfolders that its manifest "
        "names. Each file has exactly the length of the audio that was encoded.",
    )
    command.add_argument("source", metavar="IN", type=file_path, help="folder of shards")
    command.add_argument("target", metavar="OUT", type=file_path, help="folder for the audio")
    command.add_argument("-f", "--force", action="store_true", help="replace files that exist")
    add_jobs_option(command)
    add_output_options(command, "the model, the device and the settings of the shards")
    add_model_options(command, "the bundled model, or the one below ./runs, with which the tokens were made")
    command.set_defaults(module="codec.commands.detokenize")
