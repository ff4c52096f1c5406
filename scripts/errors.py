"""Errors as one line for the user, with the name that was probably meant."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from codec.audio import error_text
from codec.config import flatten_settings

__all__ = ["describe_error", "unknown_name"]

# Errors whose message is shown without their type.
_PLAIN_ERRORS = (ValueError, TypeError, OSError, RuntimeError, ImportError, HydraException, OmegaConfBaseException)
# Of torch and of C++, for sizes that do not fit.
_NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "std::bad_alloc")


def describe_error(error: Exception) -> str:
    """One line; Hydra's own messages have several."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return unknown_name(f"{group}={name}", name, error.options)
    cause: BaseException = error
    while isinstance(cause, HydraException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        return _unknown_setting(str(cause.full_key), cause.parent_node)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} has no default: set {cause.full_key}=..."
    text = error_text(cause)
    if "Config group override" in text:
        return "expected the name of a file for a group, got null: no experiment is experiment=none"
    if isinstance(cause, ConfigCompositionException) and (found := re.search(r"Could not override '([^']+)'", text)):
        return f"there is no group {found[1]}: expected a folder of configs/, such as balancer or balancer/scale"
    if isinstance(cause, MemoryError) or any(phrase in text for phrase in _NO_MEMORY):
        text = "not enough memory: lower data.batch_size, data.segment_seconds or the sizes of the networks"
    elif "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        text += (
            " This is often a lack of memory: lower data.num_workers or data.batch_size. "
            "The same command resumes from the last checkpoint."
        )
    elif not isinstance(cause, _PLAIN_ERRORS):
        text = f"{type(cause).__name__}: {text}"
    setting = re.search(r"full_key: (\S+)", str(error))
    return f"{text} (in {setting[1]})" if setting else text


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence that there is no `what`, with the known name that is most like `name`, or all of them."""
    options = [str(option) for option in known]
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.7)
    if not close:
        return f"there is no {what}, expected one of {', '.join(options)}"
    return f"there is no {what}, did you mean {what.removeprefix('setting ').removesuffix(name)}{close[0]}?"


def _unknown_setting(key: str, parent: DictConfig) -> str:
    """A setting that is missing where it was looked for may be elsewhere: batch_size is data.batch_size."""
    siblings = [str(name) for name in parent if name != "hydra"]
    if "trainer" in siblings:
        siblings.append("experiment")  # a group of which no setting has the name
    name = key.rpartition(".")[2]
    sentence = unknown_name(f"setting {key}", name, siblings)
    if sentence.endswith("?"):
        return sentence
    root: Any = OmegaConf.to_container(parent._get_root())
    options = _options_with(key)
    if options:
        group = key.partition(".")[0]
        return f"there is no setting {key} here, expected one of {group}={f', {group}='.join(options)}, which have it"
    settings = (found for found in flatten_settings(root) if not found.startswith("hydra."))
    elsewhere = [found for found in settings if found.rpartition(".")[2] == name]
    if elsewhere:
        return f"there is no setting {key}, did you mean {' or '.join(elsewhere[:3])}?"
    hint = f"; +{key}=... passes another argument to {parent._target_}" if "_target_" in parent else ""
    return f"{sentence}{hint}"


def _options_with(key: str) -> list[str]:
    """Options of a setting's group whose file has the setting at its top level."""
    group, _, name = key.partition(".")
    files = sorted((Path(__file__).parent.parent / "configs" / group).glob("*.yaml"))
    return [file.stem for file in files if re.search(rf"^{re.escape(name)}:", file.read_text("utf-8"), re.MULTILINE)]
