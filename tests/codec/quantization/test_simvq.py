"""SimVQ against vector-quantize-pytorch: codes, value, loss and gradients of one codebook; residuals by hand."""

import pytest
import torch
from torch import Tensor

from codec.quantization import SimVQ, rotation, straight_through

DIM, SIZE = 5, 13


def latent() -> Tensor:
    return torch.randn(2, DIM, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rotated", [False, True])
def test_one_codebook_is_that_of_vector_quantize_pytorch(rotated: bool) -> None:
    from vector_quantize_pytorch import SimVQ as TheirSimVQ  # takes seconds to import

    torch.manual_seed(0)
    quantizer = SimVQ(latent_dim=DIM, num_codebooks=1, codebook_size=SIZE,
                      estimator=rotation if rotated else straight_through)  # fmt: skip
    theirs = TheirSimVQ(DIM, SIZE, channel_first=True, rotation_trick=rotated)
    with torch.no_grad():
        quantizer.fixed[0] = theirs.frozen_codebook
        quantizer.maps[0] = theirs.code_transform.weight.T
    x = latent().requires_grad_()
    output, (value, codes, loss) = quantizer(x), theirs(x)
    assert torch.equal(output.codes[:, 0], codes)
    torch.testing.assert_close(output.latent, value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(0.25 * output.commitment.sum(), loss)
    slope = torch.randn_like(value)
    # Theirs also trains the map through the straight-through value with rotation off: the value is a constant there.
    mine = torch.autograd.grad((output.latent * slope).sum() + 0.25 * output.commitment.sum(), [x, quantizer.maps])
    other = torch.autograd.grad((value * slope).sum() + loss, [x, theirs.code_transform.weight])
    torch.testing.assert_close(mine[0], other[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine[1][0], other[1].T, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_codebooks_quantize_what_the_ones_before_left() -> None:
    quantizer = SimVQ(latent_dim=DIM, num_codebooks=3, codebook_size=SIZE)
    residual, expected = latent().double(), []
    for fixed, each in zip(quantizer.fixed.double(), quantizer.maps.double(), strict=True):
        table = fixed @ each
        distances = torch.cdist(residual.transpose(1, 2), table, compute_mode="donot_use_mm_for_euclid_dist")
        expected.append(distances.argmin(-1))
        residual = residual - table[expected[-1]].transpose(1, 2)
    codes = quantizer.encode(latent())
    assert torch.equal(codes, torch.stack(expected, 1))
    torch.testing.assert_close(quantizer.decode(codes), (latent().double() - residual).float())
    quantizer.beams = 4
    better = (quantizer.decode(quantizer.encode(latent())) - latent()).square().mean()
    assert better < residual.square().mean()


def test_every_codebook_pulls_the_latent_and_every_map_learns() -> None:
    quantizer = SimVQ(latent_dim=DIM, num_codebooks=3, codebook_size=SIZE)
    x = latent().requires_grad_()
    output = quantizer(x)
    for k in range(3):
        at_latent, at_maps = torch.autograd.grad(output.commitment[k], [x, quantizer.maps], retain_graph=True)
        assert at_latent.abs().max() > 0
        assert [bool(each.abs().max() > 0) for each in at_maps] == [i == k for i in range(3)]


def test_a_step_at_one_code_moves_all_codes() -> None:
    quantizer = SimVQ(latent_dim=DIM, num_codebooks=1, codebook_size=SIZE)
    before = quantizer.vectors().detach()
    output = quantizer(latent()[:1, :, :1])
    output.commitment.sum().backward()
    torch.optim.SGD(quantizer.parameters(), 0.1).step()
    assert (quantizer.vectors() - before).norm(dim=2).min() > 0
