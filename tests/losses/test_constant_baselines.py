"""Losses of the best constant prediction, compared with searches for a better constant; their mean over batches."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from losses import L1, L2, SISDR, AdversarialLoss, MultiResolutionSTFT, MultiScaleMel, constant_baselines

RATE = 24_000
SPECTRAL = [
    MultiScaleMel(RATE, [6, 8], log_distance="mse"),
    MultiScaleMel(RATE, [6, 8], alpha=[0.5, 2.0]),
    MultiResolutionSTFT([256, 64], [64, 16], [200, 64]),
]


def _batch(seed: int = 0, shape: tuple[int, ...] = (2, 2, 1500)) -> Tensor:
    """Noise whose level changes along the way, so that mean and median differ, in waveform and in spectrum."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.linspace(-6, 0, shape[-1]).exp()
    return 0.02 + level * torch.randn(shape, generator=generator)


def test_worked_numbers() -> None:
    reference = torch.tensor([[[0.0, 0.0, 3.0]]])
    assert L1().constant_baseline(reference).item() == 1.0
    assert L2().constant_baseline(reference).item() == 2.0


@pytest.mark.parametrize("loss", [L1(), L2()])
def test_no_constant_waveform_does_better(loss: nn.Module) -> None:
    reference = _batch().double()
    baseline = loss.constant_baseline(reference).item()
    candidates = torch.linspace(-0.3, 0.3, 601, dtype=torch.float64)
    values = [loss(constant.expand_as(reference), reference).item() for constant in candidates]
    assert baseline <= min(values) + 1e-12
    assert baseline == pytest.approx(min(values), rel=1e-4)


def _numpy_mel_baseline(loss: MultiScaleMel, reference: Tensor) -> float:
    total, parts = 0.0, 0.0
    audio = reference.double().flatten(0, 1).numpy()
    for scale, alpha in zip(loss.resolutions, loss.alphas, strict=True):
        hop, margin, size = scale.hop_samples, scale.margin_samples, 4 * scale.hop_samples
        padded = np.pad(np.pad(audio, [(0, 0), (margin, margin)], mode="reflect"), [(0, 0), (0, -audio.shape[1] % hop)])
        frames = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, ::hop]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        spectra = np.abs(np.fft.rfft(frames * hann / np.linalg.norm(hann))) ** 2
        power = spectra @ scale.filters[::2].double().numpy()
        filled = power.shape[-1] / loss.mels
        logs = np.log10(power + loss.floor)
        squares = (logs - logs.mean(axis=(0, 1))) ** 2
        logarithmic = squares.mean() * filled
        if loss.log_distance == "l2":
            logarithmic = np.sqrt(squares.sum(axis=-1) / loss.mels).mean()
        middle = np.sort(power.reshape(-1, power.shape[-1]), axis=0)[(power[..., 0].size - 1) // 2]
        total += filled * np.abs(power - middle).mean() + alpha * logarithmic
        parts += 1 + alpha
    return total / parts


@pytest.mark.parametrize("loss", SPECTRAL[:2])
def test_mel_baseline_equals_numpy(loss: MultiScaleMel) -> None:
    assert loss.constant_baseline(_batch()).item() == pytest.approx(_numpy_mel_baseline(loss, _batch()), rel=1e-5)


def test_stft_baseline_equals_numpy() -> None:
    loss, reference = MultiResolutionSTFT([256], [64], [200]), _batch()
    padded = np.pad(reference.double().numpy().reshape(4, -1), [(0, 0), (128, 128)], mode="reflect")
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200), 28)
    frames = np.concatenate([np.lib.stride_tricks.sliding_window_view(row, 256)[::64] for row in padded])
    magnitude = np.sqrt(np.maximum(np.abs(np.fft.rfft(frames * window)) ** 2, 1e-7))
    convergence = np.linalg.norm(magnitude - magnitude.mean(axis=0)) / np.linalg.norm(magnitude)
    logarithmic = np.abs(np.log(magnitude) - np.median(np.log(magnitude), axis=0)).mean()
    assert loss.constant_baseline(reference).item() == pytest.approx(convergence + logarithmic, rel=1e-4)


@pytest.mark.parametrize("level", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("loss", SPECTRAL)
def test_a_constant_tone_does_not_beat_the_baseline(loss: nn.Module, level: float) -> None:
    # A tone's spectrum is the same in every frame; so is that of silence, to which the level tends.
    reference = _batch()
    time = torch.arange(reference.shape[-1]) / RATE
    baseline = loss.constant_baseline(reference).item()
    for estimate in (level * (2 * torch.pi * 3000 * time).sin(), torch.zeros_like(time)):
        assert baseline < loss(estimate.expand_as(reference), reference).item()


@pytest.mark.parametrize("loss", [L1(), L2(), *SPECTRAL])
def test_silence_has_baseline_zero(loss: nn.Module) -> None:
    assert loss.constant_baseline(torch.zeros(1, 1, 1000)).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", [L1(), L2(), *SPECTRAL])
def test_autocast_changes_nothing_and_no_graph_is_kept(loss: nn.Module) -> None:
    reference = _batch().requires_grad_()
    expected = loss.constant_baseline(reference)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss.constant_baseline(reference), expected)
    assert not expected.requires_grad
    assert loss.constant_baseline(_batch().bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("loss", [L1(), L2(), *SPECTRAL])
def test_audio_without_channels_is_an_error(loss: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"expected audio \[B, C, T\], got \[2, 1000\]"):
        loss.constant_baseline(torch.zeros(2, 1000))


def test_baselines_are_means_over_batches_of_the_losses_that_have_one() -> None:
    losses = {"l1": L1(), "si_sdr": SISDR(), "mel": SPECTRAL[0], "adversarial": AdversarialLoss("hinge")}
    batches = [_batch(seed) for seed in range(3)]
    found = constant_baselines(losses, iter(batches))
    assert list(found) == ["l1", "mel"]
    for name, value in found.items():
        assert value == pytest.approx(
            np.mean([losses[name].constant_baseline(batch).item() for batch in batches]), rel=1e-6
        )


def test_without_a_loss_that_has_a_baseline_no_batch_is_read() -> None:
    def never() -> Tensor:
        raise AssertionError

    assert constant_baselines({"si_sdr": SISDR()}, iter(never, None)) == {}


def test_no_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"at least one batch .*, got none"):
        constant_baselines({"l1": L1()}, [])
