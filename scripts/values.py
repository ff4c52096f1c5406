"""Checks the type and the range of every setting, before anything is built with it."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Lt
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails, SchemaError, ValidationError

from codec.ranges import BatchSize, Name, NonNegativeFloat, NonNegativeInt, NumWorkers, PositiveFloat, SegmentSeconds
from codec.training import CheckpointStore
from data import held_out_clips
from scripts.errors import unknown_name

__all__ = ["check_values"]

# Settings that scripts/composition.py and scripts/parts.py read themselves. All others are arguments of a class or
# function.
_READ_HERE: dict[str, Any] = {
    "name": str | int | None,
    "runs_folder": Name,
    "seed": Annotated[int, Ge(0), Lt(1 << 63)],
    "init_from": Name | None,
    "init_from_parts": list[str] | None,
    "losses.weights": dict[str, NonNegativeFloat],
    "data.root": Name | None,
    "data.segment_seconds": SegmentSeconds,
    "data.batch_size": BatchSize,
    "data.num_workers": NumWorkers | None,
    "validation.bandwidth_kbps": PositiveFloat,
    "validation.samples_per_group": NonNegativeInt,
    "validation.metrics": list[str],
    "validation.speech_groups": list[str] | None,
    "validation.best": str,
    "losses.terms": dict[str, dict[str, Any]],
    "data.transforms": list[dict[str, Any]],
    "logger.sinks": list[dict[str, Any]],
    "checkpoints": dict[str, Any],
}
# Settings that must name a class or function.
_PARTS = ("codec", "balancer", "data.corpus", "data.dataset", "optimizer.codec", "optimizer.discriminator", "trainer")
_ADVERSARIAL_PARTS = ("discriminator", "adversarial", "adversarial.loss")
# Words for pydantic's types of errors; its own message for all others.
_WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "dataclass_type": "a mapping",
    "callable_type": "a mapping with a _target_",
    "string_too_short": "text that is not empty",
    "too_short": "a list of {min_length} or more",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
}
_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)


def check_values(cfg: DictConfig) -> None:
    """Checks settings against the annotations of the class or function that `_target_` names.

    Raises:
        ValueError: Names the first invalid setting, what it must be and what it is.
    """
    for key in _READ_HERE:
        if not OmegaConf.is_missing(cfg, key):
            _check(key, _plain(OmegaConf.select(cfg, key)), None, key)
    terms = [f"losses.terms.{name}" for name in cfg.losses.terms]
    for key in (*_PARTS, *terms, *(_ADVERSARIAL_PARTS if cfg.discriminator is not None else ())):
        _check_part(key, OmegaConf.select(cfg, key))
    _check_arguments("data.held_out", cfg.data.held_out, held_out_clips)
    _check_arguments("checkpoints", cfg.checkpoints, CheckpointStore)
    for path in _targets(OmegaConf.to_container(cfg)):
        if cfg.discriminator is None and path.partition(".")[0] == "adversarial":
            continue  # it is not used
        node = OmegaConf.select(cfg, path)
        _check_arguments(path, node, get_object(node._target_))


def _targets(value: Any, path: str = "") -> Iterator[str]:
    """Path of every mapping with a class or function in plain settings. Interpolations are text there."""
    if isinstance(value, dict) and "_target_" in value:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from _targets(each, f"{path}.{key}" if path else str(key))


def _check_arguments(path: str, node: DictConfig, target: Callable[..., Any]) -> None:
    kinds = _kinds(target)
    parameters = inspect.signature(target).parameters
    takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in map(str, node):
        if key not in parameters and not key.startswith("_") and not takes_any:
            raise ValueError(unknown_name(f"setting {path}.{key}", key, parameters))
        if key in kinds and not OmegaConf.is_missing(node, key):
            value = _plain(node[key])
            if not any(True for _ in _targets(value)):  # a part, which is checked itself
                _check(f"{path}.{key}", value, target, key)


def _check_part(key: str, value: Any) -> None:
    if not isinstance(value, DictConfig) or "_target_" not in value:
        raise ValueError(f"{key} must be a mapping with a _target_, got {_plain(value)!r}")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


@cache
def _kinds(target: Callable[..., Any]) -> Mapping[str, Any]:
    """Parameter -> its annotation."""
    try:
        hints = get_type_hints(target.__init__, include_extras=True) if inspect.isclass(target) else {}
        return hints or get_type_hints(target, include_extras=True)  # the fields of a NamedTuple are those of the class
    except NameError:  # an annotation of somebody else's class that exists for type checkers only
        return {}


def _kind(target: Callable[..., Any] | None, parameter: str) -> Any:
    """The annotation of a parameter; without a target, of a setting that is read here."""
    return _READ_HERE[parameter] if target is None else _kinds(target)[parameter]


@cache  # making them takes most of the time of a check, and an ablation checks many runs
def _adapter(target: Callable[..., Any] | None, parameter: str) -> TypeAdapter | None:
    """None for an annotation that pydantic cannot check."""
    kind = _kind(target, parameter)
    for config in (_STRICT, None):  # pydantic refuses a config for a dataclass
        try:
            return TypeAdapter(kind, config=config)
        except (PydanticUserError, SchemaError):
            continue
    return None


def _check(key: str, value: Any, target: Callable[..., Any] | None, parameter: str) -> None:
    adapter = _adapter(target, parameter)
    if adapter is None:
        kind = _kind(target, parameter)
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        if value is None and NoneType in kinds:
            return
        if value != [] or all(inspect.isclass(each) for each in kinds):  # the class itself refuses an empty list
            raise ValueError(f"{key} must be a mapping with a _target_, got {value!r}")
        return
    try:
        # As JSON, so that a list may become a tuple. Names of files need not be valid Unicode.
        adapter.validate_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), strict=True)
    except ValidationError as error:
        # Values are numbers, texts, lists and mappings. An annotation may also accept an object, which none of them is.
        every = error.errors(include_url=False)
        errors = [e for e in every if e["type"] != "needs_python_object"]
        if not errors:
            raise ValueError(f"{key} must be a mapping with a _target_, got {value!r}") from error
        is_union = len(every) > 1
        place = ".".join([key, *(str(part) for part in errors[0]["loc"] if not is_union)])
        expected = " or ".join(dict.fromkeys(_expected(e) for e in errors))
        raise ValueError(f"{place} must be {expected}, got {value if is_union else errors[0]['input']!r}") from error


def _expected(error: ErrorDetails) -> str:
    return _WORDS.get(error["type"], error["msg"].removeprefix("Input should be ")).format(**error.get("ctx", {}))
