"""The options of `codec info`."""

import argparse

from codec.bundled import bundled_models
from codec.commands.options.files import file_path

__all__ = ["add"]

_EXAMPLES = """examples:
  codec info in.ecdc                   length, bitrate, model
  codec info runs/starter              a model: architecture and bitrates
  codec info --json coded              one JSON object per line for every file in a folder
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    info = commands.add_parser(
        "info",
        help="describe encoded files, models or audio files",
        description="Checks whole files and describes them.",
        epilog=_EXAMPLES,
    )
    info.add_argument(
        "inputs",
        metavar="IN",
        nargs="+",
        type=file_path,
        help=f"encoded file, audio file, model file, run folder (model.safetensors), bundled model ("
        f"{', '.join(bundled_models())}), or folder of encoded and audio files",
    )
    info.add_argument("--json", action="store_true", help="print one JSON object per line and file")
    info.set_defaults(module="codec.commands.info")
