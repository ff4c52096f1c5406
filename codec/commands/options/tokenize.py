"""The options of `codec tokenize`."""

import argparse

from codec.commands.options.files import add_jobs_option, add_output_options, file_path
from codec.commands.options.model import add_beams_option, add_bitrate_option, add_model_options

__all__ = ["add"]

_EXAMPLES = """examples:
  codec tokenize music tokens                  writes tokens/tokens-00000.npz, ... and tokens/manifest.jsonl
  codec tokenize list.jsonl tokens -b 3        the files of a manifest; its text and other keys become columns
  codec tokenize music tokens --format parquet --shard-size 64MiB
  codec detokenize tokens back                 and back to audio
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    command = commands.add_parser(
        "tokenize",
        epilog=_EXAMPLES,
        help="audio of a data set to shards of codes, for language models",
        description="Encodes all audio files of a folder or manifest to shards of codes: one array of whole numbers "
        "[codebooks, frames] per file. manifest.jsonl lists the files, failed.jsonl those that could not be read, and "
        "dataset.json has the settings. A run that was interrupted is resumed by the same command.",
    )
    command.add_argument(
        "source",
        metavar="IN",
        type=file_path,
        help="folder of audio, or a manifest: one JSON object per line, with the key path. Further keys, such as text, "
        "become columns",
    )
    command.add_argument("target", metavar="OUT", type=file_path, help="folder for the shards")
    add_bitrate_option(command)
    command.add_argument(
        "--format", choices=("npz", "parquet"), default="npz", help="of the shards. Parquet needs pyarrow. Default: npz"
    )
    command.add_argument(
        "--shard-size",
        metavar="N",
        type=_shard_size,
        help="number of files in a shard, or the size of its codes, such as 64MiB. Default: 1000 files",
    )
    command.add_argument(
        "--batch-seconds",
        metavar="S",
        type=float,
        default=300.0,
        help="audio that a GPU encodes at once; less needs less memory. Default: %(default)g",
    )
    command.add_argument("-f", "--force", action="store_true", help="start again if OUT was made with other settings")
    add_jobs_option(command)
    add_output_options(command, "the model, the device and the settings of the shards")
    add_beams_option(command)
    add_model_options(command)
    command.set_defaults(module="codec.commands.tokenize")


def _shard_size(text: str) -> object:
    from codec.tokens import ShardSize  # imported here, because help and errors of usage must not wait for it

    try:
        return ShardSize.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
