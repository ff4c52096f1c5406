"""Factorized codes against transformers' DAC: codes, values, losses and gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.quantization import FactorizedQuantizer

DIM, K, SIZE, CODE_DIM = 16, 5, 11, 3  # the latent of DAC is encoder_hidden_size * 2 ** len(downsampling_ratios) wide


def reference() -> Any:
    """transformers' `DacResidualVectorQuantizer`."""
    from transformers import DacConfig  # takes a second to import
    from transformers.models.dac.modeling_dac import DacResidualVectorQuantizer

    torch.manual_seed(0)
    config = DacConfig(encoder_hidden_size=8, downsampling_ratios=[2], n_codebooks=K, codebook_size=SIZE,
                       codebook_dim=CODE_DIM)  # fmt: skip
    assert config.hidden_size == DIM
    return DacResidualVectorQuantizer(config).eval()


def ours(theirs: Any) -> FactorizedQuantizer:
    quantizer = FactorizedQuantizer(latent_dim=DIM, num_codebooks=K, codebook_size=SIZE, codebook_dim=CODE_DIM)
    with torch.no_grad():
        for codebook, source in zip(quantizer, theirs.quantizers, strict=True):
            for linear, conv in ((codebook.to_code, source.in_proj), (codebook.from_code, source.out_proj)):
                linear.weight.copy_(conv.weight[..., 0])
                linear.bias.copy_(conv.bias)
            codebook.codes.copy_(source.codebook.weight)
    return quantizer


def latent() -> Tensor:
    return torch.randn(2, DIM, 30, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("count", [1, 3, K])
def test_codes_values_and_losses_are_those_of_transformers(count: int) -> None:
    theirs = reference()
    quantizer, x = ours(theirs), latent()
    expected, codes, _, commitment, codebook = theirs(x, count)
    output = quantizer(x, count)
    assert torch.equal(output.codes, codes)
    assert torch.equal(quantizer.encode(x, count), codes)
    torch.testing.assert_close(output.latent, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(quantizer.decode(codes), expected)
    torch.testing.assert_close(output.commitment.sum(), (commitment + 4 * codebook).mean(), rtol=1e-5, atol=0)
    assert len(codes.unique()) > SIZE // 2


def test_gradients_are_those_of_transformers() -> None:
    """With DAC's weights, 0.25 for the commitment and 1 for the codes."""
    theirs = reference()
    quantizer = ours(theirs)
    gradients = []
    for module in (quantizer, theirs):
        x = latent().requires_grad_()
        if module is quantizer:
            output = quantizer(x)
            value, loss = output.latent, 0.25 * output.commitment.sum()
        else:
            value, _, _, commitment, codebook = theirs(x)
            loss = (0.25 * commitment + codebook).mean()
        slope = torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
        ((value * slope).sum() + 100 * loss).backward()
        gradients.append((x.grad, module))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=1e-4, atol=1e-4)
    for codebook, source in zip(quantizer, theirs.quantizers, strict=True):
        torch.testing.assert_close(codebook.codes.grad, source.codebook.weight.grad, rtol=1e-4, atol=1e-4)
        for linear, conv in ((codebook.to_code, source.in_proj), (codebook.from_code, source.out_proj)):
            torch.testing.assert_close(linear.weight.grad, conv.weight.grad[..., 0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(linear.bias.grad, conv.bias.grad, rtol=1e-4, atol=1e-4)


def test_codebooks_that_are_not_used_get_a_gradient_of_zero() -> None:
    """DistributedDataParallel waits for the gradient of every parameter."""
    quantizer = FactorizedQuantizer(latent_dim=DIM, num_codebooks=3, codebook_size=SIZE, codebook_dim=CODE_DIM)
    output = quantizer(latent(), 1)
    assert output.codes.shape == (2, 1, 30)
    (output.latent.sum() + output.commitment.sum()).backward()
    first, *rest = ([parameter.grad for parameter in codebook.parameters()] for codebook in quantizer)
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in first)
    assert all(gradient is not None and gradient.abs().max() == 0 for each in rest for gradient in each)


@torch.no_grad()
def test_a_code_is_the_one_of_the_largest_cosine() -> None:
    quantizer = FactorizedQuantizer(latent_dim=DIM, num_codebooks=1, codebook_size=SIZE, codebook_dim=CODE_DIM)
    (codebook,) = quantizer
    x = latent()
    projected = codebook.to_code(x.transpose(1, 2)).double().numpy()
    codes = codebook.codes.double().numpy()
    cosine = projected @ (codes / np.linalg.norm(codes, axis=1, keepdims=True)).T
    assert quantizer.encode(x)[:, 0].tolist() == cosine.argmax(-1).tolist()
    # A code counts by its direction alone; what it decodes to depends on its length.
    codebook.codes[3] *= 100
    assert quantizer.encode(x)[:, 0].tolist() == cosine.argmax(-1).tolist()
