"""The inputs and outputs of `codec encode` and `codec decode`, and how much the commands print."""

import argparse
from pathlib import Path

__all__ = ["MAX_JOBS", "add_file_options", "add_jobs_option", "add_output_options", "file_path"]

MAX_JOBS = 1024  # each has a model in memory


def file_path(text: str) -> Path:
    """The path of an option. The empty text, such as an unset variable of the shell, is not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a file or folder, got an empty text")
    return Path(text)


def add_file_options(
    command: argparse.ArgumentParser, group: argparse._ArgumentGroup, content: str, result: str, suffix: str
) -> None:
    """Adds IN, --output, --force, --jobs, --quiet and --verbose.

    Args:
        command: Gets the inputs.
        group: Gets the options.
        content: What an input is.
        result: What an output is.
        suffix: Of outputs without a name.
    """
    command.add_argument(
        "inputs",
        metavar="IN",
        nargs="+",
        type=file_path,
        help=f"{content}, folder of such files, or - for standard input",
    )
    group.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help=f"{result}, folder, or - for standard output. It is made if it does not exist. Default: IN with the "
        f"suffix {suffix}; standard output for a pipe",
    )
    group.add_argument("-f", "--force", action="store_true", help="replace files that exist")
    group.add_argument(
        "--jobs", metavar="N", type=int, default=1, help="processes for many files, each with its own model. Default: 1"
    )
    add_output_options(group, "the model, the device and the formats")


def add_jobs_option(command: argparse._ActionsContainer) -> None:
    """Adds --jobs."""
    command.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        help="number of processes, each with one thread. The result does not depend on it. Default: one per CPU",
    )


def add_output_options(command: argparse._ActionsContainer, details: str) -> None:
    """Adds --quiet and --verbose, which prints details."""
    command.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors and notes")
    command.add_argument("-v", "--verbose", action="store_true", help=f"print {details}")
