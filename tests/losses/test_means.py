"""Weights for the means of several tensors at once."""

import torch

from losses.means import mean_weights, row_norms


def test_the_mean_of_weighted_values_is_the_weighted_sum_of_means() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(size, generator=generator, dtype=torch.float64) for size in (1, 7, 300)]
    factors = (0.5, 2.0, 0.1)
    weights = mean_weights((1, 7, 300), factors, torch.device("cpu"), torch.float64)
    expected = sum(factor * part.mean() for factor, part in zip(factors, parts, strict=True))
    torch.testing.assert_close((torch.cat(parts) * weights).sum(), expected)


def test_weights_of_worked_numbers() -> None:
    assert mean_weights((4, 2), (1.0, 0.5), torch.device("cpu")).tolist() == [0.25] * 6


def test_row_norms_and_their_gradient_equal_those_of_each_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = [
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (2, 4), (1, 2), (5, 1))
    ]
    matrices[0][1] = 0  # the gradient of this norm is 0
    joined = torch.cat([matrix.flatten() for matrix in matrices]).requires_grad_()
    found = row_norms(joined, [matrix.shape for matrix in matrices])
    leaves = [matrix.clone().requires_grad_() for matrix in matrices]
    expected = torch.cat([torch.linalg.vector_norm(leaf, dim=1) for leaf in leaves])
    torch.testing.assert_close(found, expected)
    slopes = torch.randn(11, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(found, joined, slopes)
    torch.testing.assert_close(
        gradient, torch.cat([g.flatten() for g in torch.autograd.grad(expected, leaves, slopes)])
    )
