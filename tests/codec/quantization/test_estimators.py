"""Gradients of a quantized latent: the rotation trick against vector-quantize-pytorch and NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.quantization import ResidualVectorQuantizer, rotation, straight_through


def pair(count: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latent, quantized = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    return latent.requires_grad_(), quantized


def gradient(of: Tensor, latent: Tensor, slope: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(of, latent, slope)
    return found


def test_the_rotation_trick_is_that_of_vector_quantize_pytorch() -> None:
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to  # takes seconds to import

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


# In the residual quantizer with moving averages


def residual_quantizer(num_codebooks: int) -> ResidualVectorQuantizer:
    quantizer = ResidualVectorQuantizer(latent_dim=5, num_codebooks=num_codebooks, codebook_size=16, estimator=rotation)
    quantizer.initialize(torch.randn(500, 5, generator=torch.Generator().manual_seed(0)))
    return quantizer


def test_one_moving_average_codebook_is_that_of_vector_quantize_pytorch() -> None:
    from vector_quantize_pytorch import VectorQuantize

    quantizer = residual_quantizer(1)
    theirs = VectorQuantize(5, 16, rotation_trick=True, channel_last=False, commitment_weight=1.0).eval()
    theirs._codebook.embed.data.copy_(quantizer.embed)
    latent = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(1), requires_grad=True)
    output, (value, codes, _) = quantizer(latent), theirs.train()(latent, freeze_codebook=True)
    assert torch.equal(output.codes[:, 0], codes)
    torch.testing.assert_close(output.latent, value)
    slope = torch.randn_like(value)
    torch.testing.assert_close(gradient(output.latent, latent, slope), gradient(value, latent, slope))


@pytest.mark.parametrize("used", [1, 3])
def test_the_rotation_is_from_the_latent_to_the_sum_of_the_codes(used: int) -> None:
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

    quantizer = residual_quantizer(3)
    latent = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(1), requires_grad=True)
    output = quantizer(latent, used)
    quantized = quantizer.decode(output.codes)
    torch.testing.assert_close(output.latent, quantized)
    slope = torch.randn_like(quantized)
    expected = rotate_to(latent.transpose(1, 2), quantized.transpose(1, 2)).transpose(1, 2)
    found = gradient(output.latent, latent, slope)
    torch.testing.assert_close(found, gradient(expected, latent, slope), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, slope, rtol=0.1)
    quantizer.update(output)  # the codebooks learn as without it
