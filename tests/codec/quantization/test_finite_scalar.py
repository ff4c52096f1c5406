"""FSQ against vector-quantize-pytorch, and its residual codebooks against NumPy."""

from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.quantization import FiniteScalarQuantizer

DIM = 6


def latent(frames: int = 40) -> Tensor:
    return 2 * torch.randn(2, DIM, frames, generator=torch.Generator().manual_seed(1))


def pair(levels: tuple[int, ...], groups: int) -> tuple[FiniteScalarQuantizer, torch.nn.Module]:
    from vector_quantize_pytorch import FSQ  # takes seconds to import

    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer(latent_dim=DIM, levels=levels, num_groups=groups, num_codebooks=groups)
    theirs = FSQ(list(levels), dim=DIM, num_codebooks=groups, keep_num_codebooks_dim=True, channel_first=True,
                 preserve_symmetry=True)  # fmt: skip
    with torch.no_grad():
        for linear, source in ((quantizer.to_code, theirs.project_in), (quantizer.from_code, theirs.project_out)):
            linear.weight.copy_(source.weight)
            linear.bias.copy_(source.bias)
    return quantizer, theirs


@pytest.mark.parametrize(("levels", "groups"), [((8, 5, 5, 5), 1), ((2, 3), 2), ((4,), 3)])
def test_codes_values_and_gradients_are_those_of_vector_quantize_pytorch(levels: tuple[int, ...], groups: int) -> None:
    quantizer, theirs = pair(levels, groups)
    gradients = []
    x = latent().requires_grad_()
    output, (value, codes) = quantizer(x), theirs(x)
    assert torch.equal(output.codes.transpose(1, 2), codes.long())
    assert torch.equal(quantizer.encode(x), output.codes)
    torch.testing.assert_close(output.latent, value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(quantizer.decode(output.codes), value, rtol=1e-5, atol=1e-6)
    slope = torch.randn_like(value)
    for each, module in ((output.latent, quantizer), (value, theirs)):
        weights = [p for p in module.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(each, [x, *weights], slope))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_residual_codebooks_round_the_error_on_finer_grids() -> None:
    """In NumPy, for values in (-1, 1) as tanh returns them: digits and value of each codebook, and the bound."""
    levels, count = (4, 3), 3
    quantizer = FiniteScalarQuantizer(latent_dim=2, levels=levels, num_codebooks=count)
    for linear in (quantizer.to_code, quantizer.from_code):
        linear.weight.copy_(torch.eye(2))
        linear.bias.zero_()
    x = torch.randn(1, 2, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    error, steps = np.tanh(x[0].T.numpy()), np.array(levels) - 1
    bounded = error.copy()
    for k in range(count):
        scale = 1 / steps.astype(float) ** k
        digits = np.clip(np.round((error / scale + 1) / 2 * steps), 0, steps)
        code = digits[:, 0] + levels[0] * digits[:, 1]
        error = error - scale * (2 * digits / steps - 1)
        assert quantizer.encode(x, k + 1)[0, k].tolist() == code.tolist()
        decoded = quantizer.decode(quantizer.encode(x, k + 1))[0].T.double().numpy()
        np.testing.assert_allclose(decoded, bounded - error, atol=1e-6)
        assert (np.abs(error) <= scale / steps + 1e-12).all()
        torch.testing.assert_close(quantizer(x, k + 1).commitment[k].item(), (error**2).mean(), rtol=1e-4, atol=1e-9)


@torch.no_grad()
def test_groups_without_a_code_decode_to_zero() -> None:
    quantizer = FiniteScalarQuantizer(latent_dim=DIM, levels=(3, 3), num_groups=3, num_codebooks=6)
    assert quantizer.codebook_sizes == (9,) * 6
    codes = quantizer.encode(latent())
    everything = quantizer.to_code(latent().transpose(1, 2)).tanh().unflatten(-1, (3, 2))
    for count in range(1, 7):
        values = torch.zeros(2, 40, 3, 2)
        for k in range(count):
            values[:, :, k % 3] += quantizer.values(codes[:, k], k)
        expected = quantizer.from_code(values.flatten(2)).transpose(1, 2)
        torch.testing.assert_close(quantizer.decode(codes[:, :count]), expected)
        torch.testing.assert_close(quantizer(latent(), count).latent, expected, rtol=1e-5, atol=1e-6)
    # The second codebook of a group halves the largest error of three levels.
    errors = [(everything - _values(quantizer, codes, count)).abs().max() for count in (3, 6)]
    assert errors[0] <= 0.5 + 1e-6
    assert errors[1] <= 0.25 + 1e-6


def _values(quantizer: FiniteScalarQuantizer, codes: Tensor, count: int) -> Tensor:
    groups = [sum(quantizer.values(codes[:, k], k) for k in range(g, count, 3)) for g in range(3)]
    return torch.stack(groups, 2)


@torch.no_grad()
def test_every_code_decodes_to_another_vector() -> None:
    levels = (5, 4, 3)
    quantizer = FiniteScalarQuantizer(latent_dim=DIM, levels=levels)
    size = prod(levels)
    values = quantizer.values(torch.arange(size), 0)
    assert len(values.unique(dim=0)) == size
    assert values.abs().max() == 1
    for axis, count in enumerate(levels):
        expected = np.linspace(-1, 1, count)
        np.testing.assert_allclose(values[:, axis].unique().numpy(), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [1, 3]}, r"levels.0 must be a whole number in \[2, 65536\], got 1"),
        ({"levels": []}, "levels must be"),
        ({"levels": [300, 300]}, "at most 65536 codes, got 90000"),
        ({"num_codebooks": 0}, r"num_codebooks must be a whole number in \[1, 1024\], got 0"),
        ({"num_groups": 2, "num_codebooks": 3}, "num_codebooks must be a multiple of num_groups, 2, got 3"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FiniteScalarQuantizer(**changes)
