"""Compiled networks train like those that are not, and where torch cannot compile, training goes on without.

The backend `aot_eager` traces and differentiates networks as for kernels, but makes none and needs no C++ compiler.
"""

from collections.abc import Callable, Iterator
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from balancer import Balancer, Keep, Sum
from balancer.scales.vqgan import VQGAN
from codec.model import Codec
from codec.network import DACNetwork, ISTFTNetwork
from codec.quantization import ResidualVectorQuantizer
from codec.training import AdversarialTraining, Trainer
from codec.training.startup.compilation import compile_networks, restore_networks
from codec.training.startup.initialize import Startup
from losses import (
    AdversarialLoss,
    CombinedDiscriminator,
    MultiBandSTFTDiscriminator,
    MultiFilterBankDiscriminator,
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
)
from tiny_run import (
    ADVERSARIAL,
    copied,
    differences,
    initialized,
    messages,
    plain_losses,
    take_steps,
    tidied,
    tiny_codec,
    tiny_trainer,
    tones,
)

# The first is about an input that is no leaf; torch hides it by other means. `trial_step` hides the second.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`"),
]
# Adam turns the rounding of a gradient near zero into steps of full length.
SGD = partial(torch.optim.SGD, lr=0.01)
COMPILE = Startup.compile_networks
NETWORKS: dict[str, Callable[[], Any]] = {
    "istft": lambda: ISTFTNetwork(
        hop_samples=40, latent_dim=16, encoder_window_samples=80, encoder_width=20, encoder_depth=1,
        decoder_window_samples=80, decoder_width=12, decoder_depth=1,
    ),
    "dac": lambda: DACNetwork(encoder_filters=2, decoder_filters=4, strides=(40,), latent_dim=16),
}  # fmt: skip
DISCRIMINATORS: dict[str, Callable[[], nn.Module]] = {
    "ms_stft": partial(MultiScaleSTFTDiscriminator, filters=2, windows=[64], dilations=[1], compression=0.3),
    "multi_band": partial(MultiBandSTFTDiscriminator, filters=2, windows=[64], bands=[0.0, 1.0]),
    "combined": lambda: CombinedDiscriminator(
        [
            MultiPeriodDiscriminator([3], [2]),
            MultiScaleDiscriminator(1, 4, 8),
            MultiFilterBankDiscriminator([2], [0.17], 16, [2]),
        ]
    ),
}


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch._dynamo.config
    import torch._functorch.config
    import torch._inductor.config

    changed: tuple[tuple[Any, str], ...] = (
        (torch._dynamo.config, "recompile_limit"),
        (torch._dynamo.config, "suppress_errors"),
        (torch._functorch.config, "donated_buffer"),
        (torch._inductor.config, "fallback_random"),
    )
    before = [getattr(config, name) for config, name in changed]
    monkeypatch.setattr(Startup, "compile_networks", partialmethod(COMPILE, backend="aot_eager"))
    with tidied():
        yield
    for (config, name), value in zip(changed, before, strict=True):
        setattr(config, name, value)
    torch._dynamo.reset()


def small_codec(network: str = "seanet") -> Codec:
    """Four codebooks, at 0.8 kbps each."""
    if network == "seanet":
        return tiny_codec(strides=[40], filters=2, lstm_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        quantizer = ResidualVectorQuantizer(latent_dim=16, num_codebooks=4, codebook_size=16, dead_code_threshold=0.0)
        return Codec(NETWORKS[network](), quantizer, sample_rate=8000, bandwidths_kbps=[0.8, 1.6, 3.2])


def small_adversarial(kind: str, **settings: Any) -> AdversarialTraining:
    torch.manual_seed(0)
    return AdversarialTraining(DISCRIMINATORS[kind](), AdversarialLoss(), SGD, **settings)


def small_trainer(folder: Path, **config: Any) -> Trainer:
    """Losses are balanced by the gradients at the last layer."""
    adversarial = small_adversarial("ms_stft")
    trainer = tiny_trainer(folder, codec=small_codec(), adversarial=adversarial, optimizer=SGD, **config)
    weights = dict.fromkeys(plain_losses(), 1.0) | ADVERSARIAL
    trainer.balancer = Balancer(weights, VQGAN(), Sum(), Keep())
    return trainer


def count_graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("network", ["seanet", "istft", pytest.param("dac", marks=pytest.mark.long)])
def test_a_compiled_codec_has_the_same_output_and_gradients(network: str) -> None:
    codec, audio = initialized(small_codec(network)), tones(2, 400)
    networks = {"encoder": codec.encoder, "decoder": codec.decoder}
    names = list(codec.state_dict())

    def outputs() -> list[Tensor]:
        output = codec(audio)
        # Several passes through one graph, as for the losses.
        gradients = [
            torch.autograd.grad(output.audio, list(codec.parameters()), slope, retain_graph=True)
            for slope in (torch.ones_like(output.audio), output.audio.detach())
        ]
        return [output.audio.detach(), *gradients[0], *gradients[1]]

    plain = outputs()
    assert compile_networks(networks, "default", "aot_eager") == ["encoder", "decoder"]
    before = count_graphs()
    for found, expected in zip(outputs(), plain, strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().amax()) + 1e-7)
    assert count_graphs() > before
    assert list(codec.state_dict()) == names
    graphs = count_graphs()
    for count in (1, 2, 4):  # a number of codebooks compiles nothing, nor does a pass without gradients
        codec(audio, count)
    with torch.no_grad():
        codec(audio[..., :200])
    assert count_graphs() == graphs
    restore_networks(networks)
    assert differences(outputs(), plain) == []


@pytest.mark.parametrize(
    ("kind", "update"),
    [
        ("ms_stft", "alternating"),
        ("combined", "simultaneous"),
        pytest.param("multi_band", "simultaneous", marks=pytest.mark.long),
    ],
)
def test_a_compiled_discriminator_has_the_same_losses_and_gradients(kind: str, update: Any) -> None:
    estimate, reference = tones(2, 400, 1).requires_grad_(), tones(2, 400, 2)

    def results(compiles: bool) -> list[Tensor]:
        training = small_adversarial(kind, update=update)
        if compiles:
            assert compile_networks({"it": training.discriminator}, "default", "aot_eager") == ["it"]
        found = []
        for is_updated in (True, False):
            losses = training.generator_losses(estimate, reference, is_updated)
            found += [torch.autograd.grad(loss, estimate, retain_graph=True)[0] for loss in losses.values()]
            found += [loss.detach() for loss in losses.values()] + [*training.metrics.values()]
            training.step()
        return found + copied(list(training.discriminator.state_dict().values()))

    for found, expected in zip(results(True), results(False), strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().amax()) + 1e-7)


def test_compiled_runs_take_the_same_steps_and_either_resumes_the_other(tmp_path: Path) -> None:
    plain, fast = small_trainer(tmp_path / "plain"), small_trainer(tmp_path / "fast", compile="default")
    for trainer in (plain, fast):
        trainer._start(False)
    assert messages(fast)[-1].startswith("compiled in ")
    assert messages(fast)[-1].endswith("s: encoder, decoder, discriminator")
    assert all(parameter.grad is None for parameter in fast.codec.parameters())
    assert differences(fast.state_dict(), plain.state_dict()) == []  # nothing is trained or drawn
    for found, expected in zip(take_steps(fast, 3), take_steps(plain, 3), strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-4)
    graphs = count_graphs()
    states = copied(plain.state_dict()), copied(fast.state_dict())
    for part in ("codec", "average", "adversarial"):
        assert_close(states[1][part], states[0][part], rtol=1e-3, atol=1e-4)
    for trainer, state in ((plain, states[1]), (fast, states[0])):
        trainer.load_state_dict(state)
        assert differences(trainer.state_dict(), state) == []
    for found, expected in zip(take_steps(fast, 2), take_steps(plain, 2), strict=True):
        assert_close(found, expected, rtol=1e-2, atol=1e-3)
    assert count_graphs() == graphs


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate": 2, "precision": "bfloat16", "freeze_encoder_until": 0.5},
        pytest.param({"accumulate": 2}, marks=pytest.mark.long),
    ],
)
def test_batches_in_parts_bfloat16_and_a_frozen_encoder(settings: dict[str, Any], tmp_path: Path) -> None:
    weights = []
    for name, mode in (("plain", None), ("fast", "default")):
        trainer = tiny_trainer(
            tmp_path / name, codec=small_codec(), max_steps=4, optimizer=SGD, compile=mode, **settings
        )
        trainer.run()
        weights.append(dict(trainer.averaged_codec.named_parameters()))  # in bfloat16, a code may differ
    assert any(line.startswith("compiled in") for line in messages(trainer))
    assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-3 if "precision" in settings else 1e-5)


def test_without_a_compiler_a_line_says_why_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nin many lines")

    monkeypatch.setattr(Startup, "compile_networks", partialmethod(COMPILE, backend=backend))
    plain, trainer = tiny_trainer(tmp_path / "plain"), tiny_trainer(tmp_path / "fast", compile="default")
    for each in (plain, trainer):
        each.run()
    (line,) = (each for each in messages(trainer) if each.startswith("not compiled"))
    assert line.startswith("not compiled, training goes on without: ")
    assert "No working C++ compiler found" in line
    assert "\n" not in line
    without_time = ("codec", "average", "optimizer", "balancer", "random")
    states = [{name: each.state_dict()[name] for name in without_time} for each in (plain, trainer)]
    assert differences(*states) == []


@pytest.mark.long
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])  # on a CPU there are no CUDA graphs
def test_kernels_of_inductor(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Startup, "compile_networks", COMPILE)
    plain, fast = small_trainer(tmp_path / "plain"), small_trainer(tmp_path / "fast", compile=mode)
    for trainer in (plain, fast):
        trainer._start(False)
    if messages(fast)[-1].startswith("not compiled"):
        assert "compiler" in messages(fast)[-1]  # there is none on this machine
    for found, expected in zip(take_steps(fast, 3), take_steps(plain, 3), strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-4)
