"""Shared by the commands that Hydra configures: reading the command line, exit status, error messages.

Exit status: 0 success, 1 error (one line on standard error), 2 usage, 130 interrupted by the user, 143 terminated. With
HYDRA_FULL_ERROR=1 in the environment, errors are shown with their traceback.
"""

import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from codec.training import TrainingStopped
from codec.training.startup.malloc import keep_freed_memory
from scripts import handle_interrupts
from scripts.composition import CONFIGS
from scripts.errors import describe_error
from scripts.overrides import is_multirun, prepare
from scripts.printed_config import commented_yaml

__all__ = ["compose", "execute", "hydra_arguments", "typed_command"]

HELP = Path(__file__).parent / "help"


class Terminated(KeyboardInterrupt):
    """SIGTERM outside of training. As after Ctrl-C, files are closed and child processes are stopped."""


def typed_command() -> str | None:
    """The command as the user typed it, for messages; None if it was not started by its shell script."""
    script = os.environ.get("STARTED_AS")
    return None if script is None else " ".join([script, *map(shlex.quote, sys.argv[1:])])


def compose(config_name: str, plan: Callable[[DictConfig], Any] = copy) -> list[Any]:
    """The configuration of the command line; several with --multirun. --help and --cfg job end the process.

    Only `plan` runs inside Hydra. The work itself runs outside, because Hydra prints lines of its own when a job fails.

    Args:
        plan: Called with each configuration while Hydra can still compose others; its results are returned.
    """
    if not {"-h", "--help"}.isdisjoint(sys.argv[1:]):
        _print_and_exit((HELP / f"{config_name}.txt").read_text(encoding="utf-8"))
    with hydra_arguments():
        flags = _take_cfg_job()
        plans = _collect(config_name, plan if flags is None else partial(_printed_config, resolve="--resolve" in flags))
    if flags is not None:
        _print_and_exit("".join(plans))
    return plans


def _print_and_exit(text: str) -> NoReturn:
    try:
        print(text, end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python prints the rest when it ends
        if isinstance(error, BrokenPipeError):  # as of `| head`
            sys.exit(128 + signal.SIGPIPE)
        raise
    sys.exit(0)


def _collect(config_name: str, plan: Callable[[DictConfig], Any]) -> list[Any]:
    plans, errors = [], []

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
    def collect(cfg: DictConfig) -> None:
        try:
            plans.append(plan(cfg))
        except Exception as error:
            errors.append(error)

    with TemporaryDirectory() as folder:  # where Hydra writes a multirun.yaml that nobody needs
        if is_multirun(sys.argv[1:]):
            sys.argv.append(f"hydra.sweep.dir='{folder}'")
        collect()
    if errors:
        raise errors[0]
    return plans


@contextmanager
def hydra_arguments() -> Iterator[None]:
    """`sys.argv` in Hydra's grammar within the block."""
    given = sys.argv
    sys.argv = [given[0], *prepare(given[1:])]
    try:
        yield
    finally:
        sys.argv = given


def _take_cfg_job() -> list[str] | None:
    """Removes `--cfg job [--resolve]` from `sys.argv` and returns it; None if it is not there."""
    arguments = sys.argv[1:]
    for flags in (["--cfg", "job"], ["-c", "job"], ["--cfg=job"]):
        for place in range(len(arguments)):
            if arguments[place : place + len(flags)] == flags and not {"-p", "--package"} & set(arguments):
                rest = arguments[:place] + arguments[place + len(flags) :]
                sys.argv[1:] = [argument for argument in rest if argument != "--resolve"]
                return [*flags, *({"--resolve"} & set(rest))]
    return None


def _printed_config(cfg: DictConfig, resolve: bool) -> str:
    hydra_config = HydraConfig.get()
    if resolve:
        OmegaConf.resolve(cfg)
    folders = [source.path for source in hydra_config.runtime.config_sources if source.provider != "hydra"]
    return commented_yaml(cfg, str(hydra_config.job.config_name), hydra_config.runtime.choices, folders)


def execute(command: Callable[[], None], interrupted: str) -> None:
    """Runs a command. If it fails, prints one line and ends the process with the exit status above.

    Args:
        interrupted: For a user who interrupted the command; the command follows.
    """
    handle_interrupts()
    again = typed_command() or shlex.join(sys.orig_argv)
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors that it would print otherwise
    before = signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # reconfigure flushes
                stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    logging.basicConfig(format="%(message)s")  # to standard error
    logging.getLogger("data").setLevel(logging.INFO)  # downloads take minutes and are announced
    try:
        keep_freed_memory()
        command()
    except TrainingStopped as stop:
        if str(stop):  # only the main process has a message
            with suppress(OSError):  # the terminal may be gone
                print(stop, file=sys.stderr)
        sys.exit(stop.exit_status)
    except KeyboardInterrupt as stop:
        print(f"{interrupted}: {again}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM if isinstance(stop, Terminated) else 130)
    except Exception as error:
        if full_error == "1":
            raise
        rank = os.environ.get("RANK", "0")  # set by torchrun; every process reports its own error
        print(f"error{'' if rank == '0' else f' in process {rank}'}: {describe_error(error)}", file=sys.stderr)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _terminate(*_: Any) -> NoReturn:
    raise Terminated
