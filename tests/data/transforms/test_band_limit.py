"""Band limits: what is kept and removed, and the limits that are drawn."""

import numpy as np
import pytest
import torch

from data import RandomBandLimit, bandwidth_hz

RATE = 24000


def tones(*hertz: float) -> torch.Tensor:
    time = torch.arange(RATE // 2, dtype=torch.float64) / RATE
    return torch.stack([torch.sin(2 * torch.pi * each * time) for each in hertz]).sum(0).float()[None]


def test_what_lies_above_is_removed_and_what_lies_below_is_kept() -> None:
    limited = RandomBandLimit(RATE, 4000, 4000, 1)(tones(500, 3700, 4100, 9000), torch.Generator())
    inside = slice(2000, -2000)  # the filter reaches beyond the ends of the segment
    torch.testing.assert_close(limited[:, inside], tones(500, 3700)[:, inside], atol=0.01, rtol=0)


def test_limits_are_uniform_in_steps_of_500_hz() -> None:
    limit, generator = RandomBandLimit(RATE, 4000, 8000, 0.5), torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(1, RATE // 4, generator=generator)
    limits = np.array([bandwidth_hz(limit(noise, generator), RATE) for _ in range(200)])
    changed = limits < 11000
    assert np.mean(changed) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(200))
    assert len(set(np.round(limits[changed] / 500))) >= 8
    assert np.mean(limits[changed]) == pytest.approx(6000, abs=200 + 4 * 4000 / np.sqrt(12 * changed.sum()))


@pytest.mark.parametrize("settings", [(100, 8000), (4000, 13000), (5000, 4000), (4000, 8000, 2)])
def test_settings_out_of_range_are_refused(settings: tuple[float, ...]) -> None:
    limits = r"expected 500 <= minimum_hz <= maximum_hz <= \d+ .* got"
    with pytest.raises(ValueError, match=r"probability must be .* got 2" if len(settings) == 3 else limits):
        RandomBandLimit(RATE, *settings)
