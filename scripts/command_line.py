"""Shared by the commands that Hydra configures: reading the command line, exit status, error messages.

Exit status: 0 success, 1 error (one line on standard error), 2 usage, 130 interrupted by the user. With
HYDRA_FULL_ERROR=1 in the environment, errors are shown with their traceback.
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from typing import Any

import hydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from codec.training import TrainingStopped
from codec.training.startup.malloc import keep_freed_memory
from scripts.composition import CONFIGS

__all__ = ["compose", "describe_error", "execute"]

# Errors whose message is shown without their type.
_PLAIN_ERRORS = (ValueError, TypeError, OSError, RuntimeError, ImportError, HydraException, OmegaConfBaseException)


def compose(config_name: str, plan: Callable[[DictConfig], Any] = copy) -> list[Any]:
    """The configuration of the command line; several with --multirun. --help ends the process.

    Only `plan` runs inside Hydra. The work itself runs outside, because Hydra prints lines of its own when a job fails.

    Args:
        plan: Called with each configuration while Hydra can still compose others; its results are returned.
    """
    plans, errors = [], []

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
    def collect(cfg: DictConfig) -> None:
        try:
            plans.append(plan(cfg))
        except Exception as error:
            errors.append(error)

    collect()
    if errors:
        raise errors[0]
    return plans


def execute(command: Callable[[], None], interrupted: str) -> None:
    """Runs a command. If it fails, prints one line and ends the process with the exit status above.

    Args:
        interrupted: The line for a user who interrupted the command.
    """
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors that it would print otherwise
    try:
        keep_freed_memory()
        command()
    except TrainingStopped as stop:
        if str(stop):  # only the main process has a message
            with suppress(OSError):  # the terminal may be gone
                print(stop, file=sys.stderr)
        sys.exit(stop.exit_status)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if show_traceback:
            raise
        rank = os.environ.get("RANK", "0")  # set by torchrun; every process reports its own error
        print(f"error{'' if rank == '0' else f' in process {rank}'}: {describe_error(error)}", file=sys.stderr)
        sys.exit(1)


def describe_error(error: Exception) -> str:
    """One line for the user; Hydra's own messages have several."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"there is no {group}={name}, expected one of {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"expected group=name or path.to.key=value, got {error.override!r}"
    cause: BaseException = error
    while isinstance(cause, HydraException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.parent_node is not None:
        known = ", ".join(str(key) for key in cause.parent_node if key != "hydra")
        return f"there is no setting {cause.full_key}, expected one of {known}"
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} has no default: set {cause.full_key}=..."
    text = " ".join(str(cause).split())
    if "Config group override" in text:
        return "expected the name of a file for a group, got null: use experiment=none to select no experiment"
    if not isinstance(cause, _PLAIN_ERRORS):
        text = f"{type(cause).__name__}: {text}"
    setting = re.search(r"full_key: (\S+)", str(error))
    return f"{text} (in {setting[1]})" if setting else text
