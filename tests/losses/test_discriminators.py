"""Discriminators: equality with the encodec package, stereo, memory format, short audio, one pass for both signals."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from losses import (
    AdversarialLoss,
    CombinedDiscriminator,
    DiscriminatorOutput,
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    minimum_samples,
    segment_samples,
)

Discriminator = MultiScaleSTFTDiscriminator | MultiPeriodDiscriminator | MultiScaleDiscriminator | CombinedDiscriminator

SMALL: dict[str, Callable[[], Discriminator]] = {
    "stft": lambda: MultiScaleSTFTDiscriminator(4, [128, 64]),
    "compressed": lambda: MultiScaleSTFTDiscriminator(4, [128, 64], compression=0.3),
    "period": lambda: MultiPeriodDiscriminator([2, 5], [4, 8]),
    "scale": lambda: MultiScaleDiscriminator(num_sub_discriminators=2, filters=4, max_filters=16),
    "combined": lambda: CombinedDiscriminator(
        [MultiScaleSTFTDiscriminator(4, [128]), MultiPeriodDiscriminator([3], [4, 8])]
    ),
}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> Discriminator:
    torch.manual_seed(0)
    return SMALL[request.param]()


def _audio(batch: int = 2, channels: int = 1, samples: int = 700) -> Tensor:
    return 0.1 * torch.randn(batch, channels, samples, generator=torch.Generator().manual_seed(1))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _encodec(filters: int, windows: list[int]) -> nn.Module:
    from encodec.msstftd import MultiScaleSTFTDiscriminator

    with warnings.catch_warnings():  # encodec uses weight_norm's deprecated form
        warnings.simplefilter("ignore", FutureWarning)
        return MultiScaleSTFTDiscriminator(
            filters, n_ffts=windows, win_lengths=windows, hop_lengths=[window // 4 for window in windows]
        )


def test_multi_scale_stft_equals_encodecs() -> None:
    windows = [256, 512, 128]
    torch.manual_seed(0)
    reference, ours = _encodec(6, windows), MultiScaleSTFTDiscriminator(6, windows)
    for theirs, own in zip(reference.discriminators, ours.sub_discriminators, strict=True):
        source, target = theirs.state_dict(), own.state_dict()
        names = {f"convs.{index}": f"convs.{index}.conv" for index in range(5)} | {"output": "conv_post.conv"}
        parts = {
            "bias": "bias",
            "weight": "weight",
            "parametrizations.weight.original0": "weight_g",
            "parametrizations.weight.original1": "weight_v",
        }
        copied = {}
        for key in target:
            layer = next(name for name in names if key.startswith(name + "."))
            copied[key] = source[f"{names[layer]}.{parts[key[len(layer) + 1 :]]}"]
        own.load_state_dict(copied)
    audio = _audio(samples=1500)
    logits, features = reference(audio)
    output = ours(audio)
    for expected, actual in zip(logits, output.logits, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    for expected_layers, layers in zip(features, output.features, strict=True):
        for expected, actual in zip(expected_layers, layers, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_paper_sizes_have_the_published_parameter_counts() -> None:
    # Per window: 2·32·27 + 32, three of 32·32·27 + 2·32, 32·32·9 + 2·32, and 32·9 + 2.
    per_window = 1760 + 3 * (27_648 + 64) + 9216 + 64 + 290
    assert (
        _parameters(MultiScaleSTFTDiscriminator())
        == 5 * per_window
        == _parameters(_encodec(32, [2048, 1024, 512, 256, 128]))
    )
    # HiFi-GAN's multi-period discriminator has 41.1 million, MelGAN's multi-scale one 16.9 million.
    assert _parameters(MultiPeriodDiscriminator()) == 41_105_770
    assert _parameters(MultiScaleDiscriminator()) == 16_924_086


def test_arguments_of_multi_scale_stft_change_the_network() -> None:
    audio = _audio(samples=256)
    output = MultiScaleSTFTDiscriminator(4, [64], kernel=[5, 3], dilations=[1, 3])(audio)
    # 256 samples: 1 + (256 - 64) / 16 = 13 frames; 33 bins, halved by each of two strides.
    assert [list(layer.shape) for layer in output.features[0]] == [
        [2, 4, 13, 33],
        [2, 4, 13, 17],
        [2, 4, 13, 9],
        [2, 4, 13, 9],
    ]
    assert output.logits[0].shape == (2, 1, 13, 9)
    assert (
        min(layer.min().item() for layer in MultiScaleSTFTDiscriminator(4, [64], negative_slope=0.0)(audio).features[0])
        == 0.0
    )


def test_compression_keeps_phases_and_takes_a_power_of_magnitudes() -> None:
    seen: list[Tensor] = []
    for compression in (1.0, 0.3):
        discriminator = MultiScaleSTFTDiscriminator(4, [64], compression=compression)
        first = discriminator.sub_discriminators[0].convs[0]  # type: ignore[union-attr, index]
        first.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
        discriminator(_audio(samples=256))
    plain, compressed = (torch.complex(*image.double().unbind(1)).numpy() for image in seen)
    loud = abs(plain) > 1e-2  # -40 dB, well above the floor of -80
    assert loud.mean() > 0.9
    expected = abs(plain) ** 0.3 * np.exp(1j * np.angle(plain))
    np.testing.assert_allclose(compressed[loud], expected[loud], rtol=1e-4)


def test_compression_has_finite_gradients_in_silence_and_raises_quiet_components() -> None:
    silence = torch.zeros(1, 1, 256, requires_grad=True)
    output = MultiScaleSTFTDiscriminator(4, [64], compression=0.3)(silence)
    (gradient,) = torch.autograd.grad(generator_loss(output.logits), silence)
    assert bool(gradient.isfinite().all())
    # Relative change of the first layer's output by a tone 60 dB below another one.
    time = torch.arange(4096) / 24000
    loud, quiet = (torch.sin(2 * math.pi * f * time)[None, None] for f in (500, 8000))
    changes = []
    for compression in (1.0, 0.3):
        torch.manual_seed(0)
        first = MultiScaleSTFTDiscriminator(4, [512], compression=compression)
        without, with_it = (first(audio).features[0][0] for audio in (loud, loud + 1e-3 * quiet))
        changes.append(((with_it - without).norm() / without.norm()).item())
    assert changes[1] > 10 * changes[0]


def test_the_gradient_of_compression_matches_finite_differences() -> None:
    from losses.discriminators.multi_scale_stft import _Compression

    spectra = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _Compression.apply(x, -0.35), spectra)


@pytest.mark.parametrize("compression", [0.0, -0.3, 1.1, math.nan])
def test_compression_out_of_range_is_an_error(compression: float) -> None:
    with pytest.raises(ValueError, match=f"compression in .0, 1., got {compression}"):
        MultiScaleSTFTDiscriminator(4, [64], compression=compression)


def test_a_period_folds_every_pth_sample_into_one_column() -> None:
    discriminator = MultiPeriodDiscriminator([5], [3])
    audio = _audio(1, 1, 50)
    changed = audio.clone()
    changed[..., 7] += 1.0
    before, after = discriminator(audio).features[0][0], discriminator(changed).features[0][0]
    moved = (before != after).any(dim=1).any(dim=1)[0].nonzero().flatten().tolist()
    assert moved == [7 % 5]
    assert before.shape == (1, 3, 10, 5)


def test_each_network_gets_half_the_rate_of_the_one_before() -> None:
    output = MultiScaleDiscriminator(3, 4, 16)(_audio(1, 1, 640))
    assert [features[0].shape[-1] for features in output.features] == [640, 320, 160]
    # The mean over four samples removes the highest frequency from the lower rates.
    constant, alternating = torch.zeros(1, 1, 640), torch.ones(1, 1, 640)
    alternating[..., 1::2] = -1.0
    torch.manual_seed(0)
    discriminator = MultiScaleDiscriminator(2, 4, 16)
    still, moving = discriminator(constant), discriminator(alternating)
    assert not torch.allclose(still.logits[0], moving.logits[0])
    torch.testing.assert_close(still.features[1][0][..., 10:-10], moving.features[1][0][..., 10:-10])


def test_stereo_is_scored_channel_by_channel(small: Discriminator) -> None:
    stereo = _audio(channels=2)
    output = small(stereo)
    for channel in (0, 1):
        mono = small(stereo[:, [channel]])
        for both, one in zip(output.logits, mono.logits, strict=True):
            torch.testing.assert_close(both[channel::2], one)
        for both_layers, one_layers in zip(output.features, mono.features, strict=True):
            for both, one in zip(both_layers, one_layers, strict=True):
                torch.testing.assert_close(both[channel::2], one)
    each = [generator_loss(small(stereo[:, [channel]]).logits, "least_squares") for channel in (0, 1)]
    torch.testing.assert_close(generator_loss(output.logits, "least_squares"), torch.stack(each).mean())


@pytest.mark.parametrize("kind", ["stft", "period"])
def test_images_are_channels_last_and_equal_the_contiguous_computation(kind: str) -> None:
    torch.manual_seed(0)
    discriminator = SMALL[kind]()
    seen: list[bool] = []

    def compare(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(arguments[0].is_contiguous(memory_format=torch.channels_last))
        contiguous = arguments[0].contiguous(memory_format=torch.contiguous_format)
        plain = nn.functional.conv2d(
            contiguous, module.weight.contiguous(), module.bias, module.stride, module.padding, module.dilation
        )
        torch.testing.assert_close(output, plain, rtol=1e-5, atol=1e-6)

    for module in discriminator.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(compare)
    discriminator(_audio())
    assert seen
    assert all(seen)


def test_one_pass_over_both_signals_equals_two(small: Discriminator) -> None:
    estimate, reference = _audio(), -_audio().flip(-1)
    both = small(torch.cat([estimate, reference]))
    for half, signal in enumerate((estimate, reference)):
        alone = small(signal)
        torch.testing.assert_close([logits.chunk(2)[half] for logits in both.logits], alone.logits)
        features = [[layer.chunk(2)[half] for layer in layers] for layers in both.features]
        torch.testing.assert_close(features, alone.features)


def test_one_graph_serves_the_discriminator_and_the_generator(small: Discriminator) -> None:
    leaf, reference = _audio().requires_grad_(), -_audio().flip(-1)
    estimate_output, reference_output = small(leaf), small(reference)
    parameters = list(small.parameters())
    adversarial = generator_loss(estimate_output.logits)
    features = feature_matching_loss(estimate_output.features, reference_output.features, relative=True)
    own = discriminator_loss(estimate_output.logits, reference_output.logits)
    at_estimate = [torch.autograd.grad(term, leaf, retain_graph=True)[0] for term in (adversarial, features)]
    own.backward(inputs=parameters)
    assert leaf.grad is None
    assert all(gradient.shape == leaf.shape and gradient.abs().sum() > 0 for gradient in at_estimate)

    # Separate forward passes give the same gradients.
    shared = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    assert len(shared) == len(parameters)
    separate = discriminator_loss(small(leaf.detach()).logits, small(reference).logits)
    torch.testing.assert_close(list(torch.autograd.grad(separate, parameters)), shared, rtol=1e-4, atol=1e-6)
    alone = torch.autograd.grad(generator_loss(small(leaf).logits), leaf)[0]
    torch.testing.assert_close(alone, at_estimate[0], rtol=1e-4, atol=1e-7)


def test_gradient_at_the_audio_matches_finite_differences() -> None:
    torch.manual_seed(0)
    discriminator = MultiScaleSTFTDiscriminator(2, [8], dilations=[1]).double()
    audio = _audio(1, 2, 12).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: generator_loss(discriminator(x).logits, "least_squares"), audio)


def test_convolutions_follow_autocast_and_the_spectrum_does_not() -> None:
    discriminator = SMALL["stft"]()
    inputs: list[torch.dtype] = []
    discriminator.sub_discriminators[0].convs[0].register_forward_pre_hook(
        lambda module, args: inputs.append(args[0].dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        output = discriminator(_audio())
    assert inputs == [torch.float32]
    assert {tensor.dtype for tensor in [*output.logits, *output.features[0]]} == {torch.bfloat16}
    assert output.features[0][0].is_contiguous(memory_format=torch.channels_last)


def test_silence_gives_finite_outputs_and_gradients(small: Discriminator) -> None:
    silence = torch.zeros(1, 1, 700, requires_grad=True)
    output = small(silence)
    (gradient,) = torch.autograd.grad(generator_loss(output.logits), silence)
    assert all(logits.isfinite().all() for logits in output.logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("kind", "minimum"), [("stft", 128), ("period", 5), ("scale", 16), ("combined", 128)])
def test_shortest_audio_works_and_shorter_is_an_error(kind: str, minimum: int) -> None:
    discriminator = SMALL[kind]()
    assert minimum_samples(discriminator) == segment_samples(discriminator) == minimum
    assert all(logits.numel() for logits in discriminator(_audio(samples=minimum)).logits)
    with pytest.raises(ValueError, match=f"at least {minimum} samples, got audio of {minimum - 1} samples"):
        discriminator(_audio(samples=minimum - 1))
    with pytest.raises(ValueError, match=r"audio \[B, C, T\], got \[2, 700\]"):
        discriminator(torch.zeros(2, 700))


def test_impossible_settings_are_errors() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        MultiScaleSTFTDiscriminator(4, [1022])
    with pytest.raises(ValueError, match="two odd sizes"):
        MultiScaleSTFTDiscriminator(4, [64], kernel=[3, 8])
    with pytest.raises(ValueError, match="periods >= 1"):
        MultiPeriodDiscriminator([0])
    with pytest.raises(ValueError, match="multiple of 4"):
        MultiScaleDiscriminator(filters=6)
    with pytest.raises(ValueError, match="at least one discriminator"):
        CombinedDiscriminator([])


def test_state_dict_holds_parameters_only_and_restores_the_outputs(small: Discriminator) -> None:
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    assert set(state) == {name for name, _ in small.named_parameters()}
    expected = small(_audio()).logits
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(1.5)
    assert not torch.equal(small(_audio()).logits[0], expected[0])
    small.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(small(_audio()).logits, expected, strict=True))


class Energy(nn.Module):
    """A discriminator that shares no code with this package: its logit is a weighted energy."""

    minimum_samples = 300
    window_samples = 400

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        energy = self.weight * audio.flatten(0, 1).square().mean(-1, keepdim=True)
        return DiscriminatorOutput([energy[:, None]], [[energy[:, None]]])


def test_a_discriminator_from_outside_the_package_is_combined_and_trained() -> None:
    torch.manual_seed(0)
    discriminator = CombinedDiscriminator([MultiScaleSTFTDiscriminator(4, [128]), Energy()])
    assert (minimum_samples(discriminator), segment_samples(discriminator)) == (300, 400)
    output = discriminator(_audio())
    assert [len(layers) for layers in output.features] == [5, 1]
    assert output.parts == discriminator.names == ["multi_scale_stft", "energy"]
    assert CombinedDiscriminator([Energy(), Energy()]).names == ["energy_0", "energy_1"]
    estimate, loss = _audio().requires_grad_(), AdversarialLoss()
    outputs = discriminator(estimate), discriminator(-_audio().flip(-1))
    losses = loss.generator_losses(*outputs)
    assert tuple(losses) == loss.names == ("adversarial", "feature_matching")
    assert torch.autograd.grad(sum(losses.values()), estimate, retain_graph=True)[0].abs().sum() > 0
    loss.discriminator_loss(*outputs).backward()
    assert all(parameter.grad is not None for parameter in discriminator.parameters())
