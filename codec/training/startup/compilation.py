"""Networks as kernels that `torch.compile` makes of them (Ansel et al. 2024), in training steps.

Networks are compiled in place. Their parameters, state and copies made before do not change. Passes without gradients
are not compiled: validation, initialization of codebooks, and the first pass of a batch in parts.

An encoder or decoder is compiled in runs of its `layers`. Between them run, as without compilation:

- LSTMs, because torch would compile them step by step, without the kernels that cuDNN and oneDNN have for them
- the layer with the `output_layer`, because balancing strategies measure gradients there, and compiled layers have
  gradients at their ends only
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from codec.model import Codec
from codec.training.startup.precision import Precision

__all__ = ["compile_networks", "restore_networks", "trial_step"]

_MOST_VARIANTS = 64
_Layers = Callable[[Tensor], Tensor]


def compile_networks(networks: Mapping[str, nn.Module], mode: str, backend: str | Callable[..., Any]) -> list[str]:
    """Makes networks run compiled; the kernels are made in the first pass.

    Args:
        networks: Encoder, decoder and discriminators by name.
        mode, backend: As in `torch.compile`.

    Returns:
        Names of the networks that are compiled. Those with an `output_layer` and without `layers` are not.
    """
    import torch._dynamo.config  # it takes seconds
    import torch._functorch.config
    import torch._inductor.config

    # Otherwise a backward pass may overwrite what its graph holds. The backward passes of single losses keep their
    # graph, and others follow.
    torch._functorch.config.donated_buffer = False
    # All runs of layers count as one function, each with a variant for each part of it that may be frozen.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_VARIANTS)
    torch._inductor.config.fallback_random = True  # layers with noise draw the same numbers as without kernels
    options: dict[str, Any] = {"mode": mode, "backend": backend, "dynamic": False}
    compiled = []
    for name, network in networks.items():
        layers = getattr(network, "layers", None)
        # An attribute of the instance takes precedence over the method of the class.
        if isinstance(layers, nn.Sequential):
            runs = list(_runs(layers, getattr(network, "output_layer", None), options))
            layers.__dict__["forward"] = partial(_forward, runs)
        elif not hasattr(network, "output_layer"):
            network.__dict__["forward"] = torch.compile(network.forward, **options)
        else:
            continue
        compiled.append(name)
    return compiled


def restore_networks(networks: Mapping[str, nn.Module]) -> None:
    """Inverse of `compile_networks`."""
    for network in networks.values():
        layers = getattr(network, "layers", None)
        (layers if isinstance(layers, nn.Sequential) else network).__dict__.pop("forward", None)


def trial_step(codec: Codec, networks: Mapping[str, nn.Module], precision: Precision, audio: Tensor) -> None:
    """Forward and backward passes like those of a training step. They leave no gradients.

    Other forms of the networks are compiled later, such as a discriminator without gradients of its weights. Where
    torch fails then, it logs why, and that form is not compiled.

    Args:
        networks: As for `compile_networks`.

    Shape: audio [B, C, T], as in training.
    """
    parameters = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    devices = [audio.device] if audio.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about code that it replaces
        with precision.autocast():
            outputs = [codec(audio, quantize=codec.quantizer.initialized).audio]
            for network in networks.values():
                if network not in (codec.encoder, codec.decoder):
                    with parametrize.cached():  # or training would compile it again
                        outputs += network(outputs[0].detach().float().requires_grad_()).logits
        slopes = [torch.ones_like(output) for output in outputs]
        torch.autograd.grad(outputs, parameters, slopes, allow_unused=True)
    torch._dynamo.config.suppress_errors = True


def _runs(
    layers: nn.Sequential, output_layer: nn.Module | None, options: Mapping[str, Any]
) -> Iterator[tuple[_Layers, _Layers]]:
    """Layers that follow each other, as they are and as training steps run them."""

    def stays(layer: nn.Module) -> bool:
        return any(part is output_layer or isinstance(part, nn.RNNBase) for part in layer.modules())

    for as_it_is, group in groupby(layers, stays):
        run = nn.Sequential(*group)
        yield run, run if as_it_is else torch.compile(run, **options)


def _forward(runs: list[tuple[_Layers, _Layers]], signal: Tensor) -> Tensor:
    for run, compiled in runs:
        signal = (compiled if torch.is_grad_enabled() else run)(signal)
    return signal
