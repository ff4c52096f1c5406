"""Weights for the means of several tensors at once."""

import torch

from losses.means import mean_weights


def test_the_mean_of_weighted_values_is_the_weighted_sum_of_means() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(size, generator=generator, dtype=torch.float64) for size in (1, 7, 300)]
    factors = (0.5, 2.0, 0.1)
    weights = mean_weights((1, 7, 300), factors, torch.device("cpu"), torch.float64)
    expected = sum(factor * part.mean() for factor, part in zip(factors, parts, strict=True))
    torch.testing.assert_close((torch.cat(parts) * weights).mean(), expected)


def test_equal_parts_have_weights_of_exactly_one() -> None:
    assert mean_weights((3, 3), (0.5, 0.5), torch.device("cpu")).tolist() == [1.0] * 6
