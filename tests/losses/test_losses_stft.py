"""The shared STFT against torch.stft, and its hand-written gradient against finite differences."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from losses.stft import STFT, centred_powers, reflected_squares


def _complex(parts: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(parts.unflatten(-1, (-1, 2)).contiguous())


@pytest.mark.parametrize(("window", "hop", "fft"), [(64, 16, 64), (64, 64, 64), (60, 12, 128), (33, 7, 64), (2, 1, 2)])
def test_equals_torch_stft(window: int, hop: int, fft: int) -> None:
    audio = torch.randn(2, 3, 333, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stft(
        audio.flatten(0, 1),
        fft,
        hop,
        window,
        window=torch.hann_window(window, dtype=torch.float64),
        center=False,
        return_complex=True,
    )
    actual = _complex(STFT(window, hop, fft_samples=fft).double()(audio))
    torch.testing.assert_close(actual.flatten(0, 1).mT, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("window", "hop", "fft"), [(8, 2, 8), (8, 8, 8), (7, 3, 10)])
def test_first_and_second_gradient_match_finite_differences(window: int, hop: int, fft: int) -> None:
    stft = STFT(window, hop, fft_samples=fft, normalized=True).double()
    audio = torch.randn(1, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(stft, audio)
    assert torch.autograd.gradgradcheck(stft, audio)


def test_samples_after_the_last_whole_frame_have_no_gradient() -> None:
    audio = torch.ones(10, requires_grad=True)
    STFT(4, 4)(audio).sum().backward()
    assert audio.grad is not None
    assert audio.grad[8:].tolist() == [0.0, 0.0]


def test_normalized_white_noise_has_one_power_at_every_window() -> None:
    noise = torch.randn(1, 60_000, generator=torch.Generator().manual_seed(0))
    for window in (32, 256, 2048):
        power = STFT(window, window // 4, normalized=True)(noise).square().unflatten(-1, (-1, 2)).sum(-1)
        assert power[..., 1:-1].mean().item() == pytest.approx(1.0, rel=0.05)


def test_float32_under_autocast_and_from_bfloat16() -> None:
    audio = torch.randn(1, 100, generator=torch.Generator().manual_seed(0))
    stft = STFT(32, 8)
    expected = stft(audio)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(stft(audio), expected)
        assert stft(audio.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("sizes", [(64, 0, 64), (64, 65, 64), (65, 16, 64), (31, 8, 31), (0, 1, 2)])
def test_impossible_sizes_are_errors(sizes: tuple[int, int, int]) -> None:
    window, hop, fft = sizes
    with pytest.raises(ValueError, match="hop_samples <= window_samples <= fft_samples"):
        STFT(window, hop, fft_samples=fft)


def _plain_squares(stft: STFT, margin: int, audio: Tensor, fill: bool) -> Tensor:
    padded = F.pad(audio.flatten(0, 1), (margin, margin), mode="reflect")
    missing = (len(stft.window) - padded.shape[-1]) % stft.hop_samples if fill else 0
    return stft(F.pad(padded, (0, missing))).square()


@pytest.mark.parametrize("fill", [False, True])
def test_squares_of_two_signals_and_their_gradient_equal_those_of_each_alone(fill: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    estimate, reference = torch.randn(2, 2, 2, 61, generator=generator, dtype=torch.float64)
    estimate.requires_grad_()
    stfts, margins = [STFT(8, 2).double(), STFT(12, 5, 32).double(), STFT(16, 4).double()], [3, 16, 0]
    found = reflected_squares(stfts, margins, estimate, reference, fill=fill)
    expected = [
        [_plain_squares(stft, margin, audio, fill) for stft, margin in zip(stfts, margins, strict=True)]
        for audio in (estimate, reference)
    ]
    torch.testing.assert_close(found, expected)
    assert not any(squares.requires_grad for squares in found[1])
    slopes = [torch.randn(squares.shape, generator=generator, dtype=torch.float64) for squares in found[0]]
    for chosen in ([0, 1, 2], [2], [0]):  # resolutions that the loss uses
        roots = [[side[k] for k in chosen] for side in (found[0], expected[0])]
        gradients = [
            torch.autograd.grad(each, estimate, [slopes[k] for k in chosen], retain_graph=True)[0] for each in roots
        ]
        torch.testing.assert_close(*gradients)


def test_centred_powers_equal_torch_stft() -> None:
    audio = torch.randn(1, 2, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ((power,),) = centred_powers([STFT(16, 4).double()], audio)
    window = torch.hann_window(16, dtype=torch.float64)
    expected = torch.stft(audio[0], 16, 4, window=window, pad_mode="reflect", return_complex=True).abs().square()
    torch.testing.assert_close(power, expected.mT, rtol=1e-6, atol=1e-6)
