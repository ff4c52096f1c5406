"""A pretended CUDA device for a machine without one: tensors compute on the CPU, and say that they are on `cuda:0`.

Values are real, so whole runs work. A storage has the tag "cuda", no tag for the CPU, or "any": memory that C++ code
allocates without a device in its arguments, such as the zeros of autograd. An operation on tensors of both devices
raises `DeviceMismatch` where CUDA refuses it. What makes the host wait for the device is counted by the line of this
project that caused it, and so is every operation that launches a kernel.

It cannot show what depends on the kernels: their results, speed and memory, cuDNN, CUDA's autocast lists, NCCL.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CUDA", "DeviceLog", "DeviceMismatch", "pretended_cuda"]

CUDA = torch.device("cuda:0")
_ROOT = str(Path(__file__).parents[2]) + "/"
_OUTSIDE = (f"{_ROOT}tests/", f"{_ROOT}.venv/", f"{_ROOT}scripts/bench/")

# Operations that launch no kernel, besides views.
_NO_KERNEL = {
    "_has_compatible_shallow_copy_type", "_local_scalar_dense", "_pin_memory", "_reshape_alias", "_unsafe_view",
    "alias", "detach", "empty", "empty_like", "empty_strided", "is_pinned", "is_same_size", "lift", "lift_fresh",
    "new_empty", "new_empty_strided", "promote_types", "record_stream", "resize_", "result_type", "set_",
}  # fmt: skip
_MAY_MIX = {"_has_compatible_shallow_copy_type", "_to_copy", "copy_", "is_same_size", "resize_", "set_"}
_SCALARS_MAY_MIX = {"_index_put_impl_", "fill", "fill_", "index_put", "index_put_", "masked_fill", "masked_fill_"}
# Operations whose result has a size that the host must know, or that return a value to it: name -> number of waits.
_WAITS = {
    "_local_scalar_dense": 1, "_unique2": 1, "bincount": 2, "equal": 1, "masked_select": 1, "nonzero": 1,
    "repeat_interleave": 1, "unique_consecutive": 1, "unique_dim": 1,
}  # fmt: skip
# Operations that torch.use_deterministic_algorithms(True) refuses on CUDA, of those that audio networks may use.
_NOT_DETERMINISTIC = {
    "avg_pool3d_backward", "bincount", "cumsum", "histc", "kthvalue", "put_", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "replication_pad1d_backward", "scatter_add_", "scatter_reduce",
}  # fmt: skip
_MASKS = (torch.bool, torch.uint8)
_LIKE = {"new_empty", "new_empty_strided", "new_full", "new_ones", "new_tensor", "new_zeros",
         "empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like"}  # fmt: skip
_FACTORIES = _LIKE | {
    "arange", "as_tensor", "complex", "empty", "empty_strided", "eye", "from_numpy", "full", "hamming_window",
    "hann_window", "linspace", "logspace", "normal", "ones", "rand", "randint", "randn", "randperm", "scalar_tensor",
    "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip


class DeviceMismatch(RuntimeError):
    """An operation got tensors of two devices."""


@dataclass
class DeviceLog:
    """What happened on the device since `clear`; keys are `file:line function`."""

    waits: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        self.waits.clear()
        self.launches.clear()

    def waits_by_function(self) -> dict[str, int]:
        """Waits by `file function`, which changes less often than lines do."""
        found: Counter[str] = Counter()
        for place, count in self.waits.items():
            file, _, rest = place.partition(":")
            found[f"{file} {rest.split(' ', 1)[-1]}"] += count
        return dict(sorted(found.items()))


@contextmanager
def pretended_cuda() -> Iterator[DeviceLog]:
    """Inside the block `device="cuda"` is the pretended device. Everything made on it must be dropped at the end."""
    log = DeviceLog()
    group = torch._C._group_tensors_by_device_and_dtype
    fork_rng, autocast_enabled, autocast_dtype = (
        torch.random.fork_rng, torch.is_autocast_enabled, torch.get_autocast_dtype
    )  # fmt: skip

    def grouped(lists: Any, with_indices: bool = False) -> dict[Any, Any]:  # C++ does not see the tags
        found = group(lists, with_indices)
        return {(_device(lists_of_group[0][0][0]), d): lists_of_group for (_, d), lists_of_group in found.items()}

    patches: tuple[tuple[Any, str, Any], ...] = (
        (torch, "autocast", _Autocast),
        (torch.amp, "autocast", _Autocast),
        (torch, "Generator", _Generator),
        (torch, "is_autocast_enabled", lambda kind="cuda": autocast_enabled(_cpu_name(kind))),
        (torch, "get_autocast_dtype", lambda kind: autocast_dtype(_cpu_name(kind))),
        (torch.random, "fork_rng", lambda devices=(), **options: fork_rng(devices=[], **options)),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "get_device_name", lambda device=None: "pretended device"),
        (torch, "compile", _refuse_to_compile),
        (torch.nn.RNNBase, "flatten_parameters", lambda module: None),
        (torch._C, "_group_tensors_by_device_and_dtype", grouped),
    )
    state = _State(log)
    functions = _Functions(state)
    run_backward = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def run_backward_in_mode(*args: Any, **options: Any) -> Any:
        """A mode is off while it handles `torch.autograd.grad`, but backward passes of Python need it."""
        with nullcontext() if functions in _get_current_function_mode_stack() else functions:
            return run_backward(*args, **options)

    patches += ((torch.autograd, "_engine_run_backward", run_backward_in_mode),)
    applied = [mock.patch.object(owner, name, value) for owner, name, value in patches]
    for patch in applied:
        patch.start()
    try:
        with _Operations(state), functions:
            yield log
    finally:
        for patch in applied:
            patch.stop()


def _refuse_to_compile(*args: Any, **options: Any) -> Any:
    raise RuntimeError("no compiler for the pretended device")  # compiled code would not pass through the modes


@dataclass
class _State:
    log: DeviceLog
    factory: str | None = None  # tag of what a factory called from Python makes; None outside of one

    def wait(self, count: int = 1) -> None:
        if count:
            self.log.waits[_place()] += count


def _place() -> str:
    """The innermost line of this project, without tests and benchmarks."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_ROOT) and not name.startswith(_OUTSIDE):
            return f"{name.removeprefix(_ROOT)}:{frame.f_lineno} {frame.f_code.co_qualname}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere:0"


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in tuples, lists and dictionaries. torch's `tree_leaves` would take a fifth of the time of a step."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return []
    return [tensor for each in value for tensor in _tensors(each)]


def _tag(tensor: Tensor) -> str:
    return getattr(tensor.untyped_storage(), "pretended", "cpu")


def _set_tag(tensor: Tensor, tag: str) -> None:
    tensor.untyped_storage().pretended = tag  # type: ignore[attr-defined]


def _device(tensor: Tensor) -> torch.device:
    return torch.device("cpu") if _tag(tensor) == "cpu" else CUDA


def _is_cuda(device: Any) -> bool | None:
    """None for no device."""
    if device is None:
        return None
    return isinstance(device, int) or torch.device(device).type == "cuda"


def _cpu_name(device_type: str) -> str:
    return "cpu" if device_type == "cuda" else device_type


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
        super().__init__(_cpu_name(device_type), *args, **options)


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> "_Generator":
        self = super().__new__(cls, device="cpu")
        self.on_cuda = bool(_is_cuda(device))  # type: ignore[attr-defined]
        return self

    def __init__(self, device: Any = "cpu") -> None:
        pass


class _Operations(TorchDispatchMode):
    """Every operation that reaches a kernel: refuses mixed devices, counts, and tags results."""

    def __init__(self, state: _State) -> None:
        super().__init__()
        self.state = state

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        tensors = _tensors((args, kwargs))
        tags = [_tag(tensor) for tensor in tensors]
        on_cuda = "cuda" in tags
        if on_cuda and "cpu" in tags and name not in _MAY_MIX:
            self._check(func, name, tensors, tags)
        if on_cuda:
            self._count_waits(name, args, kwargs)
            is_integer = not any(tensor.is_floating_point() for tensor in tensors)  # cumsum and bincount are exact then
            if name in _NOT_DETERMINISTIC and not is_integer and torch.are_deterministic_algorithms_enabled():
                raise RuntimeError(f"{name} does not have a deterministic implementation, at {_place()}")
        result = func(*args, **kwargs)
        if on_cuda or not tensors or set(tags) == {"any"}:
            made = "cuda" if on_cuda else (self.state.factory or "any" if not tensors else "any")
            self._tag_results(func, name, args, result, made)
            is_copy_to_itself = name == "copy_" and args[0].data_ptr() == args[1].data_ptr()  # the end of x[i] += y
            has_kernel = name not in _NO_KERNEL and not name.startswith("profiler::")
            if made != "cpu" and has_kernel and not _is_view(func) and not is_copy_to_itself:
                self.state.log.launches[_place()] += 1
        return result

    def _check(self, func: Any, name: str, tensors: Sequence[Tensor], tags: Sequence[str]) -> None:
        """CUDA takes scalars of the CPU in elementwise operations, and copies indices of the CPU."""
        scalars = (
            torch.Tag.pointwise in func.tags or name.startswith(("_foreach", "_fused")) or name in _SCALARS_MAY_MIX
        )
        wrong = [t for t, tag in zip(tensors, tags, strict=True) if tag == "cpu" and not (t.dim() == 0 and scalars)]
        if wrong and "index" in name and all(t.dtype in (*_MASKS, torch.int32, torch.int64) for t in wrong):
            self.state.wait()
        elif wrong:
            described = ", ".join(f"{list(t.shape)} {tag}" for t, tag in zip(tensors, tags, strict=True))
            raise DeviceMismatch(f"{name} of {described} at {_place()}")

    def _count_waits(self, name: str, args: Any, kwargs: Any) -> None:
        if name in _WAITS:
            self.state.wait(_WAITS[name])
        elif name.startswith(("_linalg", "linalg_")) and name != "linalg_vector_norm":
            self.state.wait()
        elif name in ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"):
            masks = any(i is not None and i.dtype in _MASKS and _tag(i) == "cuda" for i in args[1])
            fills = name.endswith(("put", "put_", "impl_")) and args[2].numel() == 1 and _tag(args[2]) == "cpu"
            if masks and not fills:
                self.state.wait()  # the mask's number of elements
        elif name == "copy_" and {_tag(args[0]), _tag(args[1])} == {"cpu", "cuda"}:
            self.state.wait(0 if kwargs.get("non_blocking") or (len(args) > 2 and args[2]) else 1)

    def _tag_results(self, func: Any, name: str, args: Any, result: Any, tag: str) -> None:
        if name in ("_local_scalar_dense", "set_") or tag == "cpu":
            return
        if name == "copy_":
            if _tag(args[0]) == "any":
                _set_tag(args[0], tag)
            return
        schema = func._schema.arguments
        written = [a for a, s in zip(args, schema, strict=False) if s.alias_info is not None and s.alias_info.is_write]
        for tensor in _tensors((result, written)):
            is_new = _tag(tensor) != "cuda" and not _is_view(func)
            if is_new and (_tag(tensor) == "any" or tensor is not result or not written):
                _set_tag(tensor, tag)


def _is_view(func: Any) -> bool:
    alias = func._schema.returns[0].alias_info if func._schema.returns else None
    return alias is not None and not alias.is_write


class _Functions(TorchFunctionMode):
    """The calls from Python that name a device or ask for one."""

    def __init__(self, state: _State) -> None:
        super().__init__()
        self.state = state

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, first = getattr(func, "__name__", ""), args[0] if args else None
        if name == "__get__":
            return self._attribute(func, args)
        if isinstance(first, Tensor):
            if name in ("get_device", "_has_compatible_shallow_copy_type"):
                return (0 if _tag(first) == "cuda" else -1) if name == "get_device" else True
            if name in ("numpy", "tolist", "__deepcopy__"):
                return self._export(func, name, first, args, kwargs)
            if name in ("to", "cpu", "cuda", "pin_memory"):
                return first if name == "pin_memory" else self._move(name, first, list(args[1:]), kwargs)
        if name in _FACTORIES or (kwargs.get("device") is not None and not name.startswith("_foreach")):
            return self._make(func, name, first, args, kwargs)
        return func(*args, **kwargs)

    def _attribute(self, func: Any, args: Any) -> Any:
        attribute, tensor = getattr(getattr(func, "__self__", None), "__name__", ""), args[0]
        if attribute == "device":
            return _device(tensor)
        if attribute in ("is_cuda", "is_cpu"):
            return (_device(tensor) == CUDA) == (attribute == "is_cuda")
        return func(*args)

    def _export(self, func: Any, name: str, tensor: Tensor, args: Any, kwargs: Any) -> Any:
        tag = _tag(tensor)
        if name == "numpy" and tag == "cuda":
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy, at {_place()}")
        if name == "tolist" and tag == "cuda":
            self.state.wait()
            return _Transfer.apply(tensor.detach(), "cpu").tolist()
        result = func(*args, **kwargs)
        if name == "__deepcopy__" and tag != "cpu":
            _set_tag(result, tag)
        return result

    def _make(self, func: Any, name: str, first: Any, args: Any, kwargs: Any) -> Any:
        on_cuda = _is_cuda(kwargs.get("device"))
        if on_cuda is None:
            on_cuda = name in _LIKE and isinstance(first, Tensor) and _tag(first) == "cuda"
        elif on_cuda:
            kwargs["device"] = torch.device("cpu")
        generator = kwargs.get("generator")
        if generator is not None and getattr(generator, "on_cuda", False) != on_cuda:
            raise DeviceMismatch(f"{name} with a generator of the other device at {_place()}")
        before, self.state.factory = self.state.factory, "cuda" if on_cuda else "cpu"
        try:
            result = func(*args, **kwargs)
        finally:
            self.state.factory = before
        if on_cuda:
            for tensor in _tensors(result):
                _set_tag(tensor, "cuda")
            if name in ("tensor", "as_tensor", "new_tensor"):
                self.state.wait()  # values are copied from the host
        return result

    def _move(self, name: str, tensor: Tensor, rest: list[Any], kwargs: dict[str, Any]) -> Tensor:
        """`Tensor.to` in all its forms, `Tensor.cpu` and `Tensor.cuda`."""
        target, dtype = _is_cuda(kwargs.get("device")), kwargs.get("dtype")
        if name in ("cpu", "cuda"):
            target = name == "cuda"
        elif rest and isinstance(rest[0], Tensor):
            other = rest.pop(0)
            target, dtype = _tag(other) == "cuda", other.dtype
        elif rest and not isinstance(rest[0], torch.dtype | bool):
            target = _is_cuda(rest.pop(0))
        if rest and isinstance(rest[0], torch.dtype):
            dtype = rest.pop(0)
        non_blocking = kwargs.get("non_blocking", False) or (bool(rest) and rest[0] is True)
        tag = _tag(tensor)
        if target is not None and tag != "any" and target != (tag == "cuda"):
            if not non_blocking:
                self.state.wait()
            tensor = _Transfer.apply(tensor, "cuda" if target else "cpu")
        options = {"copy": kwargs.get("copy"), "memory_format": kwargs.get("memory_format"), "dtype": dtype}
        options = {key: value for key, value in options.items() if value is not None}
        return torch.Tensor.to(tensor, **options) if options else tensor


class _Transfer(torch.autograd.Function):
    """A copy on the other device."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, tag: str) -> Tensor:
        ctx.back = _tag(tensor)
        result = tensor.detach().clone(memory_format=torch.preserve_format)
        _set_tag(result, tag)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        result = gradient.clone()
        _set_tag(result, ctx.back)
        return result, None
