"""Gradients of a quantized latent: the rotation trick against vector-quantize-pytorch and NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from codec.quantization import rotation, straight_through


def pair(count: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latent, quantized = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    return latent.requires_grad_(), quantized


def gradient(of: Tensor, latent: Tensor, slope: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(of, latent, slope)
    return found


def test_the_rotation_trick_is_that_of_vector_quantize_pytorch() -> None:
    latent, quantized = pair(50, 7)
    slope = torch.randn_like(quantized)
    ours, theirs = rotation(latent, quantized), rotate_to(latent, quantized)
    torch.testing.assert_close(ours, quantized)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, latent, slope), gradient(theirs, latent, slope))


def test_the_gradient_is_turned_and_scaled_by_the_matrix_of_the_paper() -> None:
    """Equation 4: R = I - 2 r r' + 2 q e' with unit vectors, which maps e to q."""
    latent, quantized = pair(1, 5)
    slope = torch.randn_like(quantized)
    e, q = (x[0].detach().numpy() / np.linalg.norm(x[0].detach().numpy()) for x in (latent, quantized))
    r = (e + q) / np.linalg.norm(e + q)
    matrix = np.eye(5) - 2 * np.outer(r, r) + 2 * np.outer(q, e)
    np.testing.assert_allclose(matrix @ e, q, atol=1e-12)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(5), atol=1e-12)
    factor = float(quantized.norm() / latent.detach().norm())
    found = gradient(rotation(latent, quantized), latent, slope)[0].numpy()
    np.testing.assert_allclose(found, factor * matrix.T @ slope[0].numpy(), rtol=1e-10)


@pytest.mark.parametrize("case", ["zero_latent", "zero_code", "opposite", "equal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_rotation_the_gradient_passes_straight_through(case: str, dtype: torch.dtype) -> None:
    latent, quantized = (x.detach().to(dtype) for x in pair(3, 4))
    match case:
        case "zero_latent":
            latent = torch.zeros_like(latent)
        case "zero_code":
            quantized = torch.zeros_like(quantized)
        case "opposite":
            quantized = -3 * latent
        case "equal":
            quantized = latent.clone()
    latent.requires_grad_()
    slope = torch.randn_like(quantized)
    value = rotation(latent, quantized)
    torch.testing.assert_close(value, quantized)
    torch.testing.assert_close(gradient(value, latent, slope), slope)


def test_straight_through() -> None:
    latent, quantized = pair(3, 4)
    slope = torch.randn_like(quantized)
    value = straight_through(latent, quantized)
    torch.testing.assert_close(value, quantized)
    assert torch.equal(gradient(value, latent, slope), slope)
