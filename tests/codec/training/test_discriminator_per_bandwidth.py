"""One discriminator for each bitrate: a step evaluates and updates only that of the bitrate it draws."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from codec.training import AdversarialTraining, Trainer
from codec.training.startup.precision import FailedLayer
from losses import (
    AdversarialLoss,
    DiscriminatorPerBandwidth,
    MultiPeriodDiscriminator,
    MultiScaleSTFTDiscriminator,
    discriminator_for,
)
from tiny_run import SAMPLES, copied, differences, initialized, interrupt_at, tidied, tiny_codec, tiny_trainer, tones

KBPS = [0.8, 1.6, 3.2]  # of `tiny_codec`
MAKE = partial(MultiScaleSTFTDiscriminator, filters=2, windows=[64, 32])
ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9))


def adversarial(update: str = "simultaneous") -> AdversarialTraining:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AdversarialTraining(
            DiscriminatorPerBandwidth(MAKE, KBPS),
            AdversarialLoss(),
            ADAM,
            update,  # type: ignore[arg-type]
        )


def networks(training: AdversarialTraining) -> nn.ModuleList:
    assert isinstance(training.discriminator, DiscriminatorPerBandwidth)
    return training.discriminator.combined.discriminators


def changed(before: list[dict[str, Tensor]], training: AdversarialTraining) -> list[bool]:
    after = [network.state_dict() for network in networks(training)]
    return [bool(differences(old, new)) for old, new in zip(before, after, strict=True)]


def test_the_lowest_bitrate_that_is_not_below_the_drawn_one() -> None:
    discriminator = DiscriminatorPerBandwidth(MAKE, [1.5, 3, 6])
    first, second, third = discriminator.combined.discriminators
    for kbps, expected in ((0.75, first), (1.5, first), (1.5000001, first), (2.25, second), (6, third), (12, third)):
        assert discriminator_for(discriminator, kbps) is expected
    assert discriminator_for(discriminator, None) is discriminator
    assert discriminator_for(first, 3.0) is first
    audio = tones(2, 200)
    every = [*first(audio).logits, *second(audio).logits, *third(audio).logits]
    torch.testing.assert_close(discriminator(audio).logits, every, rtol=0, atol=0)
    assert discriminator.minimum_samples == discriminator.window_samples == 64


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
@pytest.mark.parametrize("position", range(3))
def test_a_batch_trains_the_discriminator_of_its_bitrate_as_if_it_were_alone(update: str, position: int) -> None:
    training = adversarial(update)
    before = [copied(network.state_dict()) for network in networks(training)]
    alone = MAKE()
    alone.load_state_dict(before[position])
    single = AdversarialTraining(alone, AdversarialLoss(), ADAM, update)  # type: ignore[arg-type]
    reference = tones(2, SAMPLES, 2)
    for part, kbps in ((training, KBPS[position]), (single, None)):
        estimate = tones(2, SAMPLES, 1).requires_grad_()
        losses = part.generator_losses(estimate, reference, update_discriminator=True, bandwidth_kbps=kbps)
        torch.stack(list(losses.values())).sum().backward()
        part.step()
    assert changed(before, training) == [i == position for i in range(3)]
    assert differences(alone.state_dict(), networks(training)[position].state_dict()) == []
    assert all(parameter.requires_grad for parameter in training.parameters())


@pytest.mark.slow
def test_a_run_trains_all_of_them_and_resumes_to_the_bit(tmp_path: Path) -> None:
    def trainer(folder: str) -> Trainer:
        (tmp_path / folder).mkdir(exist_ok=True)
        settings = {"max_steps": 10, "checkpoint_every": 4, "validate_every": 10}
        codec = initialized(tiny_codec())
        return tiny_trainer(tmp_path / folder, codec=codec, adversarial=adversarial(), **settings)

    with tidied():
        straight = trainer("straight")
        assert straight.adversarial is not None
        before = [copied(network.state_dict()) for network in networks(straight.adversarial)]
        straight.run()
        assert changed(before, straight.adversarial) == [True] * 3
        interrupted = trainer("interrupted")
        interrupt_at(interrupted, 6)
        with pytest.raises(KeyboardInterrupt):
            interrupted.run()
        resumed = trainer("interrupted")
        resumed.run()
        states = [copied({k: v for k, v in t.state_dict().items() if k != "seconds"}) for t in (straight, resumed)]
        parts = [{name: state[name] for name in ("codec", "average", "adversarial")} for state in states]
        assert differences(*parts) == []


@pytest.mark.parametrize("bandwidths", [[], [3, 1.5], [3, 3]])
def test_bitrates_that_do_not_rise_are_refused(bandwidths: list[float]) -> None:
    with pytest.raises(ValueError, match="rising order"):
        DiscriminatorPerBandwidth(MAKE, bandwidths)


def test_shared_weights_are_refused() -> None:
    shared = MultiPeriodDiscriminator([2], [2])
    with pytest.raises(ValueError, match="share weights"):
        DiscriminatorPerBandwidth(lambda: shared, KBPS)


def test_the_bfloat16_check_covers_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tidied():
        trainer = tiny_trainer(tmp_path, adversarial=adversarial(), precision="bfloat16")
        names: list[str] = []

        def compare(precision: object, name: str, *_: object) -> FailedLayer:
            names.append(name)
            return FailedLayer(name, exception="a test")

        monkeypatch.setattr("codec.training.startup.precision._compare", compare)
        trainer.startup.check_precision(trainer.adversarial, 0)
        convolutions = [
            name for name, module in networks(adversarial()).named_modules() if isinstance(module, nn.Conv2d)
        ]
        found = {name.removeprefix("discriminator.combined.discriminators.") for name in names}
        assert len(convolutions) == 36
        assert set(convolutions) <= found
