"""The nearest codes of a vector do not depend on the rest of the batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from codec.quantization import ResidualVectorQuantizer
from codec.quantization.beam_search import BeamSearch
from codec.quantization.nearest import NearestSearch


def brute_force(latent: Tensor, embed: Tensor) -> Tensor:
    """All distances in float64, residuals in float32 as in the quantizer; [1, D, F] -> [1, K, F]."""
    residual, codes = latent[0].t(), []
    for codebook in embed:
        distances = (residual.double()[:, None] - codebook.double()[None]).square().sum(2)
        codes.append(distances.argmin(1))
        residual = residual - codebook[codes[-1]]
    return torch.stack(codes)[None]


def shifted(offset: float) -> tuple[Tensor, Tensor]:
    """Latents [1, D, F] and codes [K, size, D] of length 1, plus an offset in latents and first codebook."""
    embed = torch.randn(3, 128, 16)
    embed[0] += offset
    return torch.randn(1, 16, 200) + offset, embed


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_codes_are_the_nearest_by_brute_force(offset: float) -> None:
    latent, embed = shifted(offset)
    assert torch.equal(NearestSearch(embed)(latent), brute_force(latent, embed))


def test_the_plain_product_fails_that_check() -> None:
    latent, embed = shifted(1000.0)
    plain = ResidualVectorQuantizer(latent_dim=16, num_codebooks=3, codebook_size=128)
    plain.embed.copy_(embed)
    assert not torch.equal(plain(latent).codes, brute_force(latent, embed))


@pytest.mark.parametrize("frames", [1, 2, 7, 64])
def test_codes_do_not_depend_on_the_number_of_frames(frames: int) -> None:
    """Vectors halfway between codes, up to the last bit of float32, which a matrix product cannot decide."""
    embed = torch.randn(2, 64, 16) + 5
    pairs = torch.randint(64, (2, 300))
    halfway = ((embed[0, pairs[0]].double() + embed[0, pairs[1]].double()) / 2).float()
    latent = (halfway * (1 + torch.randint(-1, 2, (300, 1)) * 2**-23)).t()[None]
    search = NearestSearch(embed)
    whole = search(latent)
    assert torch.equal(torch.cat([search(piece) for piece in latent.split(frames, -1)], -1), whole)
    assert torch.equal(whole, brute_force(latent, embed))


def test_of_equal_codes_the_first_is_chosen() -> None:
    embed = torch.randn(1, 8, 4).repeat(1, 40, 1)
    codes = NearestSearch(embed)(torch.randn(2, 4, 500))
    assert int(codes.max()) < 8
    same = NearestSearch(torch.ones(1, 1024, 4))(torch.randn(1, 4, 100))
    assert not same.any()


@pytest.mark.parametrize("make", [NearestSearch, lambda embed: BeamSearch(embed, 3)], ids=["nearest", "beams"])
def test_latents_that_are_not_finite_do_not_affect_others(
    make: Callable[[Tensor], NearestSearch | BeamSearch],
) -> None:
    search = make(torch.randn(2, 16, 4))
    latent = torch.randn(1, 4, 5)
    expected = search(latent)
    latent[0, 0, 1], latent[0, 1, 3] = torch.inf, torch.nan
    codes = search(latent)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 16
    assert torch.equal(codes[..., [0, 2, 4]], expected[..., [0, 2, 4]])
