"""The shared STFT against torch.stft, and its hand-written gradient against finite differences."""

import pytest
import torch

from losses.stft import STFT


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
