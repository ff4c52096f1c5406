"""Gradients at the output reach the parameters as autograd would take them there, and no graph outlives its step."""

import gc
import weakref
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from balancer import Balancer, Keep, Sum
from balancer.scales.gradnorm import GradNorm
from balancer.statistics import SharedLayers
from codec.model import Codec
from codec.network.conv import pad
from codec.training.shared_gradients import SharedGradients
from codec.training.startup.precision import keep_float32
from tiny_run import SAMPLES, initialized, take_steps, tidied, tiny_codec, tiny_trainer, tones

CODECS: list[dict[str, Any]] = [
    {"norm": "weight_norm"},
    {"norm": "none"},
    {"norm": "time_group_norm", "causal": False},
    {"norm": "weight_norm", "normalize": True, "channels": 2, "causal": True, "padding": "reflect"},
]
LAYERS: list[SharedLayers] = ["last_layer", "all_shared"]


@pytest.fixture(autouse=True)
def _tidied() -> Iterator[None]:
    with tidied():
        yield


def audio_for(codec: Codec, samples: int = SAMPLES - 3) -> Tensor:
    """Not a whole number of hops, so that the end is cut."""
    return tones(2, samples).repeat(1, codec.config.channels, 1) * 0.3


@pytest.mark.parametrize("settings", CODECS)
def test_the_last_layers_gradient_is_that_of_its_effective_weight(settings: dict[str, Any]) -> None:
    codec = initialized(tiny_codec(**settings))
    entered: list[Tensor] = []
    last = codec.decoder.layers[-1]
    last.register_forward_pre_hook(lambda module, args: entered.append(args[0].detach()))
    shared_gradients, audio = SharedGradients(codec), audio_for(codec)
    output = codec(audio)
    gradient = torch.randn(output.audio.shape)
    found = shared_gradients.at(output)(gradient, "last_layer")

    weight = last.conv.weight.detach().clone().requires_grad_()
    padded = pad(entered[0], last.left_padding, last.right_padding, last.padding)
    replayed = last.norm(F.conv1d(padded, weight, last.conv.bias))[..., : audio.shape[-1]]
    if codec.config.normalize:
        replayed = replayed * (audio.mean(1, keepdim=True).square().mean(2, keepdim=True).sqrt() + 1e-8)
    assert_close(replayed, output.audio)
    (expected,) = torch.autograd.grad(replayed, [weight], gradient)
    assert_close(found, expected.flatten(), rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert found.abs().max() > 0


@pytest.mark.parametrize("settings", CODECS)
@pytest.mark.parametrize("quantized", [False, True])
def test_all_shared_parameters_get_what_a_backward_pass_gives_them(settings: dict[str, Any], quantized: bool) -> None:
    codec = initialized(tiny_codec(**settings))
    twin = deepcopy(codec)
    shared_gradients, audio = SharedGradients(codec), audio_for(codec)
    output = codec(audio, quantize=quantized)
    gradient = torch.randn(output.audio.shape)
    found = shared_gradients.at(output)(gradient, "all_shared")
    twin(audio, quantize=quantized).audio.backward(gradient)
    expected = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
    assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert len(expected) > 1000


def test_frozen_parameters_are_left_out() -> None:
    codec = tiny_codec()
    codec.encoder.requires_grad_(False)
    shared_gradients = SharedGradients(codec)
    output = codec(audio_for(codec), quantize=False)
    found = shared_gradients.at(output)(torch.ones_like(output.audio), "all_shared")
    assert len(found) == sum(parameter.numel() for parameter in codec.decoder.parameters())


@pytest.mark.parametrize("layers", LAYERS)
def test_gradients_are_taken_on_linearly_and_the_graph_stays_usable(layers: SharedLayers) -> None:
    codec = initialized(tiny_codec())
    shared_gradients = SharedGradients(codec)
    output = codec(audio_for(codec))
    shared_gradient = shared_gradients.at(output)
    first, second = torch.randn(2, *output.audio.shape)
    parts = shared_gradient(first, layers), shared_gradient(second, layers)
    assert_close(shared_gradient(first - 3 * second, layers), parts[0] - 3 * parts[1], rtol=1e-3, atol=1e-3)
    assert all(parameter.grad is None for parameter in codec.parameters())
    assert not any(part.requires_grad for part in parts)
    output.audio.backward(first)
    assert all(parameter.grad is not None for parameter in codec.parameters())


@pytest.mark.parametrize("layers", LAYERS)
def test_bfloat16_is_close_to_float32(layers: SharedLayers) -> None:
    found = []
    for enabled in (False, True):
        codec = tiny_codec()
        keep_float32(codec.decoder.layers[-1])
        shared_gradients = SharedGradients(codec)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = codec(audio_for(codec), quantize=False)
        gradient = torch.randn(output.audio.shape, generator=torch.Generator().manual_seed(0))
        found.append(shared_gradients.at(output)(gradient, layers))
        assert found[-1].dtype == torch.float32
    assert F.cosine_similarity(found[0], found[1], dim=0) > 0.98


def test_a_last_layer_in_bfloat16_is_close_too() -> None:
    found = []
    for enabled in (False, True):
        codec = tiny_codec()
        shared_gradients = SharedGradients(codec)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = codec(audio_for(codec), quantize=False)
        found.append(shared_gradients.at(output)(torch.ones(output.audio.shape), "last_layer"))
    assert output.audio.dtype == torch.bfloat16
    assert F.cosine_similarity(found[0], found[1], dim=0) > 0.98


def test_passes_without_gradients_are_not_watched() -> None:
    codec = initialized(tiny_codec())
    shared_gradients, audio = SharedGradients(codec), audio_for(codec)
    with torch.no_grad():
        output = codec(audio)
    codec.eval()
    codec.decode_segments(codec.encode_segments(audio))
    with pytest.raises(RuntimeError, match="new forward pass of the codec with gradients enabled, got none"):
        shared_gradients.at(output)


def test_a_validation_after_the_pass_does_not_take_its_place() -> None:
    codec = initialized(tiny_codec())
    shared_gradients, audio = SharedGradients(codec), audio_for(codec)
    output = codec(audio)
    expected = shared_gradients.at(codec(audio))(torch.ones_like(audio), "last_layer")
    output = codec(audio)
    with torch.no_grad():
        codec(0 * audio)
    assert torch.equal(shared_gradients.at(output)(torch.ones_like(audio), "last_layer"), expected)


def parameter_balancer(layers: SharedLayers) -> Balancer:
    return Balancer({"l1": 1.0, "mel": 1.0}, GradNorm(layers), Sum(), Keep(), monitor_every=0)


@pytest.mark.parametrize("balancer", [None, *LAYERS])
def test_no_graph_outlives_its_step(tmp_path: Path, balancer: SharedLayers | None) -> None:
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()))
    if balancer is not None:
        trainer.balancer = parameter_balancer(balancer)
    graphs: list[weakref.ref[Tensor]] = []
    trainer.codec.decoder.layers[-1].conv.register_forward_hook(lambda m, a, output: graphs.append(weakref.ref(output)))
    take_steps(trainer, 2)
    gc.collect()
    assert len(graphs) == 2
    assert all(graph() is None for graph in graphs)


def test_the_averaged_codec_is_not_watched(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    for hooked, codec in ((True, trainer.codec), (False, trainer.averaged_codec)):
        assert bool(codec.decoder.layers[-1].conv._forward_hooks) is hooked


@pytest.mark.slow
@pytest.mark.parametrize("layers", LAYERS)
def test_a_strategy_that_looks_at_parameters_trains_and_resumes(tmp_path: Path, layers: SharedLayers) -> None:
    weights = []
    trainer = tiny_trainer(tmp_path, codec=initialized(tiny_codec()))
    trainer.balancer = parameter_balancer(layers)
    state: dict[str, Any] = {}
    for step in range(4):
        if step == 2:
            state = deepcopy(trainer.state_dict())
        (metrics,) = take_steps(trainer, 1)
        weights.append((metrics["weight/l1"].item(), metrics["weight/mel"].item()))
    assert weights[0] == (1, 1)
    assert weights[1][0] != weights[1][1]
    resumed = tiny_trainer(tmp_path / "again", codec=initialized(tiny_codec()))
    resumed.balancer = parameter_balancer(layers)
    resumed.load_state_dict(state)
    metrics_again = take_steps(resumed, 2)
    assert [(m["weight/l1"].item(), m["weight/mel"].item()) for m in metrics_again] == weights[2:]


def test_the_last_layer_costs_no_backward_pass_through_the_codec(tmp_path: Path) -> None:
    passes = {}
    for layers in LAYERS:
        trainer = tiny_trainer(tmp_path / layers, codec=initialized(tiny_codec()))
        trainer.balancer = parameter_balancer(layers)
        seen: list[str] = []

        def watch(module: nn.Module, args: Any, latent: Tensor, seen: list[str] = seen) -> None:
            latent.register_hook(lambda gradient: seen.append("backward"))

        trainer.codec.encoder.register_forward_hook(watch)
        take_steps(trainer, 1)
        passes[layers] = len(seen)
    assert passes == {"last_layer": 1, "all_shared": 1 + 2}
