"""bfloat16 autocast where the hardware gains from it and every layer is right in it.

bfloat16 can be silently wrong: on CPUs with AMX, oneDNN (torch 2.13 and 2.14) returns noise for a Conv1d 16 -> 32
with kernel 16 and stride 8, and for the input gradient of its transpose, and a codec with that layer diverges
without a warning. Whether a shape is affected cannot be told from outside, so no layer is trusted before it was
compared with float32 on the shapes it really gets; one that fails stays in float32.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from codec.network.cpu import cpu_facts

__all__ = ["FailedLayer", "Precision", "choose_precision", "keep_float32", "verify_bfloat16"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
_LAYERS = (*_CONVOLUTIONS, nn.Linear, nn.LSTM)  # what autocast runs in bfloat16
_CPU_UNITS = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True)
class Precision:
    """In which dtype a run's matrix products and convolutions are computed; parameters are always float32."""

    dtype: torch.dtype
    device_type: str
    description: str  # the dtype and why, for the log

    def autocast(self) -> AbstractContextManager[object]:
        """A context for a forward pass: autocast to bfloat16, or plain float32 even below an outer autocast."""
        return self._autocast(cache_weights=True)

    def _autocast(self, cache_weights: bool) -> AbstractContextManager[object]:
        enabled = self.dtype == torch.bfloat16
        return torch.autocast(self.device_type, torch.bfloat16, enabled=enabled, cache_enabled=cache_weights)


@dataclass(frozen=True)
class FailedLayer:
    """A layer that bfloat16 gets wrong; errors are ||bfloat16 - float32|| / ||float32||."""

    name: str
    error_forward: float
    error_input_gradient: float
    error_weight_gradient: float

    def __str__(self) -> str:
        return (
            f"{self.name}: relative error {self.error_forward:.2g} (forward), "
            f"{self.error_input_gradient:.2g} (input gradient), {self.error_weight_gradient:.2g} (weight gradient)"
        )


def choose_precision(requested: str, device: torch.device | str) -> Precision:
    """The precision to train in on `device`.

    Args:
        requested: `auto` takes bfloat16 where the device has units for it (AMX or AVX512-BF16 in a CPU, Ampere or
            later in an NVIDIA GPU) and float32 elsewhere, where bfloat16 is emulated and slower; `float32` and
            `bfloat16` are taken as they are.

    Raises:
        ValueError: An unknown request, or bfloat16 on a device that is neither CPU nor CUDA.
    """
    device_type = torch.device(device).type
    if requested not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision must be auto, float32 or bfloat16, got {requested!r}")
    if requested == "bfloat16" and device_type not in ("cpu", "cuda"):
        raise ValueError(f"bfloat16 is supported on cpu and cuda, got device {device_type!r}")
    if requested == "float32":
        return Precision(torch.float32, device_type, "float32, as requested")
    units = _bfloat16_units(device_type)
    if requested == "bfloat16":
        return Precision(torch.bfloat16, device_type, f"bfloat16, as requested ({units or 'no units for it'})")
    if units is None:
        return Precision(torch.float32, device_type, f"float32: this {device_type} has no bfloat16 units")
    return Precision(torch.bfloat16, device_type, f"bfloat16: this {device_type} has {units}")


def keep_float32(module: nn.Module) -> None:
    """Makes `module` compute in float32 below any autocast; its inputs are cast, its output is float32.

    Parameters, state_dict keys and parametrizations stay as they are, and a deepcopy keeps float32 as well.
    """
    if not _is_kept(module):
        # An attribute of the instance shadows the method of the class. deepcopy follows a partial and the method
        # bound in it, where a closure would still run the original module.
        module.__dict__["forward"] = partial(_run_in_float32, module.forward)


def verify_bfloat16(
    precision: Precision, module: nn.Module, sample_forward: Callable[[], object], tolerance: float = 0.05
) -> list[FailedLayer]:
    """Compares the layers below `module` with float32, and keeps those that fail in float32.

    Convolutions, linear layers and LSTMs are compared in their output, input gradient and weight gradient, once
    for each case of configuration, input shape and memory layout that `sample_forward` leads to. Layers that it
    runs outside autocast are not looked at. Parameters, gradients, buffers and the random generators are left as
    they were.

    Args:
        precision: Nothing is checked, and nothing returned, if it is float32.
        sample_forward: Runs the module as a training step does, on a batch of the size and length to come; it is
            called once, without gradients.
        tolerance: Largest relative error; a layer that is right is off by about 0.003.

    Returns:
        The layers that failed, each with its largest errors.
    """
    if precision.dtype == torch.float32:
        return []
    with _left_unchanged(module, precision.device_type):
        uses = _record_uses(precision, module, sample_forward)
        failed: dict[str, list[tuple[float, float, float]]] = {}
        for case, layers in uses.items():
            errors = _compare(precision, next(iter(layers.values())), case)
            if not all(error <= tolerance for error in errors):  # so that NaN fails
                for name in layers:
                    failed.setdefault(name, []).append(errors)
    for name in failed:
        keep_float32(module.get_submodule(name))
    order = [name for name, _ in module.named_modules() if name in failed]
    return [FailedLayer(name, *map(_largest, zip(*failed[name], strict=True))) for name in order]


@dataclass(frozen=True)
class _Case:
    """All that the choice of a kernel can depend on."""

    kind: type
    settings: str
    weight_layout: tuple[tuple[int, ...], ...]
    input_shape: tuple[int, ...]
    input_strides: tuple[int, ...]
    input_dtype: torch.dtype
    device: torch.device


def _record_uses(
    precision: Precision, module: nn.Module, sample_forward: Callable[[], object]
) -> dict[_Case, dict[str, nn.Module]]:
    uses: dict[_Case, dict[str, nn.Module]] = {}

    def record(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_autocast_enabled(precision.device_type) and not _is_kept(layer):
            x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            case = _Case(
                parametrize.type_before_parametrizations(layer),
                layer.extra_repr(),
                tuple(parameter.stride() for parameter in layer.parameters()),
                tuple(x.shape),
                x.stride(),
                x.dtype,
                x.device,
            )
            uses.setdefault(case, {})[name] = layer

    handles = [
        layer.register_forward_pre_hook(partial(record, name), with_kwargs=True)
        for name, layer in module.named_modules()
        if isinstance(layer, _LAYERS)
    ]
    try:
        # Weights cast without gradients must not stay in the cache of an autocast around this call.
        with torch.no_grad(), precision._autocast(cache_weights=False):
            sample_forward()
    finally:
        for handle in handles:
            handle.remove()
    return uses


def _compare(precision: Precision, layer: nn.Module, case: _Case) -> tuple[float, float, float]:
    """Relative errors of bfloat16 in output, input gradient and weight gradient.

    bfloat16 gets the true shape, for the defect depends on it, but float32 need not: the items of a batch are
    independent in a convolution, so the batch repeats two items and float32 computes just these. Their weight
    gradients count as often as they are repeated.
    """
    batch = case.input_shape[0]
    batched = isinstance(layer, _CONVOLUTIONS) and len(case.input_shape) == layer.weight.dim()
    distinct = min(batch, 2) if batched else batch
    generator = torch.Generator(case.device).manual_seed(0)
    items = torch.randn((distinct, *case.input_shape[1:]), generator=generator, device=case.device)
    items = items.to(case.input_dtype).float()

    float32 = torch.autocast(precision.device_type, enabled=False)
    reference, backward = _differentiate(layer, items, float32)
    slope = torch.randn(reference.shape, generator=generator, device=case.device)
    counts = torch.tensor([len(range(i, batch, distinct)) for i in range(distinct)] if batched else [1]).to(items)
    reference_gradient, *reference_weights = backward(slope * _like(counts, slope))
    reference_gradient /= _like(counts, items)

    estimate_input = _repeat(items, _empty_as(case))
    estimate, backward = _differentiate(layer, estimate_input, precision._autocast(cache_weights=False))
    gradient, *weights = backward(_repeat(slope, torch.empty_like(estimate)))
    return (
        _relative_error([estimate], [reference]),
        _relative_error([gradient], [reference_gradient]),
        _relative_error(weights, reference_weights),
    )


def _differentiate(
    layer: nn.Module, x: Tensor, context: AbstractContextManager[object]
) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
    """The layer's output, and a function from its gradient to those of `x` and of the weights but biases."""
    x = x.detach().requires_grad_()
    with torch.enable_grad(), context:
        result = layer(x)
        output: Tensor = result[0] if isinstance(result, tuple) else result
    weights = [p for name, p in layer.named_parameters() if p.requires_grad and "bias" not in name]

    def backward(slope: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(output, [x, *weights], slope))

    return output.detach(), backward


def _empty_as(case: _Case) -> Tensor:
    x = torch.empty_strided(case.input_shape, case.input_strides, dtype=case.input_dtype, device=case.device)
    # In an expanded tensor several elements share one place, and cannot be written.
    return x.contiguous() if 0 in case.input_strides else x


def _like(counts: Tensor, x: Tensor) -> Tensor:
    return counts.view(-1, *[1] * (x.dim() - 1))


def _repeat(items: Tensor, target: Tensor) -> Tensor:
    for chunk in target.split(len(items)):
        chunk.copy_(items[: len(chunk)])
    return target


def _relative_error(estimate: list[Tensor], reference: list[Tensor]) -> float:
    """||estimate - reference|| / ||reference||, a reference with fewer items being repeated."""
    difference, size = 0.0, 0.0
    for a, b in zip(estimate, reference, strict=True):
        # Chunk by chunk: temporaries of the whole size would cost more than the sums.
        for chunk in a.split(len(b)):
            wanted = b[: len(chunk)]
            difference = math.hypot(difference, torch.linalg.vector_norm(chunk - wanted).item())
            size = math.hypot(size, torch.linalg.vector_norm(wanted).item())
    return difference / max(size, 1e-30)


def _largest(errors: tuple[float, ...]) -> float:
    return max(errors, key=lambda error: (math.isnan(error), error))


@contextmanager
def _left_unchanged(module: nn.Module, device_type: str) -> Iterator[None]:
    buffers = [(owner, name, b) for owner in module.modules() for name, b in owner._buffers.items() if b is not None]
    copies = [buffer.clone() for _, _, buffer in buffers]
    devices = [torch.cuda.current_device()] if device_type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for (owner, name, buffer), copy in zip(buffers, copies, strict=True):
            owner._buffers[name] = buffer.copy_(copy)


def _is_kept(module: nn.Module) -> bool:
    forward = module.__dict__.get("forward")
    return isinstance(forward, partial) and forward.func is _run_in_float32


def _run_in_float32(forward: Callable[..., object], *args: object, **kwargs: object) -> object:
    device_type = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    with torch.autocast(device_type, enabled=False):
        return forward(*map(_to_float32, args), **{name: _to_float32(value) for name, value in kwargs.items()})


def _to_float32(value: object) -> object:
    if isinstance(value, tuple):  # the state of an LSTM
        return tuple(map(_to_float32, value))
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _bfloat16_units(device_type: str) -> str | None:
    if device_type == "cuda":
        supported = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "tensor cores for it" if supported else None
    if device_type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    flags = cpu_facts().get("flags", "").split()
    return next((unit for unit in _CPU_UNITS if unit in flags), None)
