"""What the commands that Hydra configures have in common: how they are configured, and what they say when they fail.

Exit status: 0, 1 (one line on standard error says why), 2 (usage), 130 (stopped by the user). With HYDRA_FULL_ERROR=1
in the environment an error comes with its traceback.
"""

import os
import re
import sys
from collections.abc import Callable
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

from codec.training.startup.malloc import keep_freed_memory
from scripts.composition import CONFIGS

# Errors whose message says enough without their type.
_WELL_SAID = (ValueError, TypeError, OSError, RuntimeError, ImportError, HydraException, OmegaConfBaseException)


def compose(config_name: str, plan: Callable[[DictConfig], Any] = copy) -> list[Any]:
    """The configuration that the command line asks for; several with --multirun, none with --help.

    The work is done outside of Hydra, which has several lines of its own to say when a job fails.

    Args:
        plan: What is wanted in place of the configuration; it is called where Hydra can still compose others.
    """
    plans, errors = [], []

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
    def keep(cfg: DictConfig) -> None:
        try:
            plans.append(plan(cfg))
        except Exception as error:
            errors.append(error)

    keep()
    if errors:
        raise errors[0]
    return plans


def execute(command: Callable[[], None], stopped: str) -> None:
    """Runs a command, and ends the process with the exit status and the line that are due if it fails.

    Args:
        stopped: What to say to a user who stopped it.
    """
    in_full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises what it would else print in its own way
    try:
        keep_freed_memory()
        command()
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if in_full:
            raise
        rank = os.environ.get("RANK", "0")  # of several processes each says what went wrong in it
        print(f"error{'' if rank == '0' else f' in process {rank}'}: {describe_error(error)}", file=sys.stderr)
        sys.exit(1)


def describe_error(error: Exception) -> str:
    """One line on what was wanted and what was got; Hydra's own messages take several."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"there is no {group}={name}: wanted one of {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"wanted group=name or path.to.key=value, got {error.override!r}"
    cause: BaseException = error
    while isinstance(cause, HydraException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.parent_node is not None:
        beside = ", ".join(str(key) for key in cause.parent_node if key != "hydra")
        return f"there is no setting {cause.full_key}, only {beside}"
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} has no default: give {cause.full_key}=..."
    text = " ".join(str(cause).split())
    if "Config group override" in text:
        return "a group wants the name of a file in its folder, got null: to leave an experiment out, experiment=none"
    if not isinstance(cause, _WELL_SAID):
        text = f"{type(cause).__name__}: {text}"
    place = re.search(r"full_key: (\S+)", str(error))
    return f"{text} (in {place[1]})" if place else text
