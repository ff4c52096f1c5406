"""bfloat16 autocast on hardware that gains from it, for every layer that computes it correctly.

bfloat16 kernels can be wrong without a warning. On CPUs with AMX, oneDNN (torch 2.13 and 2.14) returns noise for a
Conv1d 16 -> 32 with kernel 16 and stride 8 and for the input gradient of its transpose, and a codec with such a layer
diverges. Other CPUs have no bfloat16 kernel for some layers: without AVX-512, oneDNN cannot run an LSTM.

Each layer is therefore compared with float32 on its true shapes, and only layers that fail stay in float32. A check of
whole networks would be shorter. But five layers of `codec=starter_seanet` fail on AMX, so it would keep that codec in
float32 on the very CPUs that are fastest in bfloat16.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from codec.training.startup.cpu import cpu_facts

__all__ = ["FailedLayer", "Precision", "check_bfloat16", "checked_layers", "choose_precision", "keep_float32"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear, nn.LSTM)  # autocast to bfloat16
_CPU_UNITS = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True)
class Precision:
    """Data type of matrix products and convolutions. Parameters are always float32."""

    dtype: torch.dtype
    device_type: str
    description: str  # the dtype and the reason, for the log
    tf32: bool = False  # float32 products whose factors are rounded to TF32

    def autocast(self, cache_weights: bool = True) -> AbstractContextManager[object]:
        """Context for a forward pass: bfloat16 autocast, or float32 even inside an outer autocast."""
        enabled = self.dtype == torch.bfloat16
        return torch.autocast(self.device_type, torch.bfloat16, enabled=enabled, cache_enabled=cache_weights)


@dataclass(frozen=True)
class FailedLayer:
    """A layer that bfloat16 gets wrong, or has no kernel for."""

    name: str
    errors: dict[str, float] = field(default_factory=dict)  # ||bfloat16 - float32|| / ||float32|| of each result
    exception: str = ""  # raised by torch

    def __str__(self) -> str:
        errors = ", ".join(f"{error:.2g} ({result})" for result, error in self.errors.items())
        return f"{self.name}: {self.exception or f'relative error {errors}'}"


def choose_precision(requested: str, device: torch.device | str) -> Precision:
    """The precision to train in on `device`.

    Args:
        requested: `auto` is bfloat16 on devices with units for it (AMX or AVX512-BF16 in a CPU, Ampere or later in an
            NVIDIA GPU) and float32 on others, which emulate bfloat16 and are slower in it. `float32` and `bfloat16` do
            not depend on the device. `tf32` is float32 with factors of products rounded to 11 bits, on CUDA only.

    Raises:
        ValueError: The request is unknown or not available on the device.
    """
    device = torch.device(device)
    device_type = device.type
    if requested not in ("auto", "float32", "tf32", "bfloat16"):
        raise ValueError(f"precision must be auto, float32, tf32 or bfloat16, got {requested!r}")
    if requested == "bfloat16" and device_type not in ("cpu", "cuda"):
        raise ValueError(f"bfloat16 is supported on cpu and cuda, got device {device_type!r}")
    if requested == "tf32" and device_type != "cuda":
        raise ValueError(f"tf32 is supported on cuda, got device {device_type!r}: set trainer.precision=float32")
    if requested == "float32":
        return Precision(torch.float32, device_type, "float32, as requested")
    if requested == "tf32":
        return Precision(torch.float32, device_type, "float32 with TF32 products, as requested", tf32=True)
    units = _bfloat16_units(device)
    if requested == "bfloat16":
        return Precision(torch.bfloat16, device_type, f"bfloat16, as requested ({units or 'no units for it'})")
    if units is None:
        return Precision(torch.float32, device_type, f"float32: this {device_type} has no bfloat16 units")
    return Precision(torch.bfloat16, device_type, f"bfloat16: this {device_type} has {units}")


def _bfloat16_units(device: torch.device) -> str | None:
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return None
        with torch.cuda.device(device):  # the question is about the current device
            return "tensor cores for it" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    flags = cpu_facts().get("flags", "").split()
    return next((unit for unit in _CPU_UNITS if unit in flags), None)


def keep_float32(module: nn.Module) -> None:
    """Makes `module` compute in float32 inside any autocast; its inputs are converted and its output is float32.

    Parameters, state_dict keys and parametrizations do not change, and copies of the module keep float32 as well.
    """
    if not _is_kept(module):
        # An attribute of the instance takes precedence over the method of the class. A partial, unlike a closure, is
        # copied by deepcopy together with the module that its method is bound to.
        module.__dict__["forward"] = partial(_run_in_float32, module.forward)


def _is_kept(module: nn.Module) -> bool:
    forward = module.__dict__.get("forward")
    return isinstance(forward, partial) and forward.func is _run_in_float32


def _run_in_float32(forward: Callable[..., object], *args: object, **kwargs: object) -> object:
    with torch.autocast(_first_tensor(args, kwargs).device.type, enabled=False):
        return forward(*map(_to_float32, args), **{name: _to_float32(value) for name, value in kwargs.items()})


def _first_tensor(args: Sequence[object], kwargs: dict[str, Any]) -> Tensor:
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _to_float32(value: object) -> object:
    if isinstance(value, tuple):  # the state of an LSTM
        return tuple(map(_to_float32, value))
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def checked_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer of all convolutions, linear layers and LSTMs that are not kept in float32."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, _LAYERS)}
    return {name: layer for name, layer in layers.items() if not _is_kept(layer)}


def check_bfloat16(
    precision: Precision,
    module: nn.Module,
    sample_forward: Callable[[], object],
    tolerance: float = 0.05,
    advance: Callable[[], None] = lambda: None,
) -> list[FailedLayer]:
    """Compares convolutions, linear layers and LSTMs in `module` with float32, and keeps those that fail in float32.

    Output, input gradient and weight gradient are compared, once for each shape and memory layout of the input. Layers
    that run outside autocast are not checked. Parameters, gradients, buffers and random generators do not change.

    Args:
        precision: With float32 nothing is checked.
        sample_forward: Runs the module as a training step does, on a batch of the size of later batches. It is called
            once, without gradients.
        tolerance: Largest relative error. Correct layers have an error of about 0.003.
        advance: Called after the first comparison of each layer.
    """
    failed: dict[str, FailedLayer] = {}
    if precision.dtype == torch.float32:
        return []
    layers = checked_layers(module)
    checked: set[object] = set()
    names: set[str] = set()

    def forward(name: str, layer: nn.Module, own: Callable[..., object], *args: object, **kwargs: Any) -> object:
        x = _first_tensor(args, kwargs)
        case = name, x.shape, x.stride(), x.dtype
        if torch.is_autocast_enabled(precision.device_type) and name not in failed and case not in checked:
            checked.add(case)
            result = _compare(precision, name, layer, own, x)
            if result.exception or not all(error <= tolerance for error in result.errors.values()):  # NaN fails
                failed[name] = result
            if name not in names:
                names.add(name)
                advance()
        return _run_in_float32(own, *args, **kwargs) if name in failed else own(*args, **kwargs)

    with _state_restored(module):
        for name, layer in layers.items():
            layer.__dict__["forward"] = partial(forward, name, layer, layer.forward)
        try:
            # Weights converted without gradients must not stay in the cache of an outer autocast.
            with torch.no_grad(), precision.autocast(cache_weights=False):
                sample_forward()
        finally:
            for layer in layers.values():
                del layer.__dict__["forward"]
    for name in failed:
        keep_float32(layers[name])
    return list(failed.values())


def _compare(
    precision: Precision, name: str, layer: nn.Module, forward: Callable[..., object], x: Tensor
) -> FailedLayer:
    """Relative errors of bfloat16 for a random input with the shape and memory layout of `x`."""
    # Elements of an expanded tensor share memory and cannot be set one by one.
    dense = 0 not in x.stride()
    sample = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device) if dense else torch.empty_like(x)
    sample.normal_(generator=torch.Generator(x.device).manual_seed(0))
    weights = [p for key, p in layer.named_parameters() if p.requires_grad and "bias" not in key]

    float32 = torch.autocast(precision.device_type, enabled=False)

    def differentiate(sample: Tensor, context: AbstractContextManager[object]) -> tuple[list[Tensor], ...]:
        sample = sample.detach().requires_grad_()
        with torch.enable_grad(), context:
            result = forward(sample)
        output: Any = result[0] if isinstance(result, tuple) else result
        slope = torch.empty(output.shape, device=output.device)
        slope.normal_(generator=torch.Generator(x.device).manual_seed(1))
        with float32:  # a training step's backward pass runs outside autocast
            gradient, *weight_gradients = torch.autograd.grad(output, [sample, *weights], slope.to(output.dtype))
        return [output.detach()], [gradient], weight_gradients

    reference = differentiate(sample.float(), float32)
    try:
        estimate = differentiate(sample, precision.autocast(cache_weights=False))
    except RuntimeError as error:
        return FailedLayer(name, exception=str(error).strip().splitlines()[0])
    results = ("output", "input gradient", "weight gradient")
    return FailedLayer(name, dict(zip(results, map(_relative_error, estimate, reference), strict=True)))


def _relative_error(estimate: list[Tensor], reference: list[Tensor]) -> float:
    """||estimate - reference|| / ||reference|| over all tensors of the lists together."""
    difference = math.hypot(*(float((a - b).norm()) for a, b in zip(estimate, reference, strict=True)))
    return difference / max(math.hypot(*(float(b.norm()) for b in reference)), 1e-30)


@contextmanager
def _state_restored(module: nn.Module) -> Iterator[None]:
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    device = next(module.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])
