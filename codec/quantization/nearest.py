"""Nearest codes of a residual quantizer that do not depend on the number of vectors searched at once.

A stream quantizes one frame at a time and a file hundreds. The fast search, |e|^2 - 2 <v, e> with one matrix product,
rounds differently for every number of vectors. Where vectors and codes share a large offset, the difference between two
codes is lost in that rounding. Here both are taken relative to the mean of the codebook. Where a bound on the rounding
error of the product leaves several codes possible, their distances are computed in float64.
"""

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from codec.quantization.ieee import ieee_float32

__all__ = ["NearestSearch", "exclude_copies"]

_PAIRS = 1 << 14  # pairs of vector and code per float64 distance computation: 16 MB at 128 dimensions


def exclude_copies(squares: Tensor, embed: Tensor) -> Tensor:
    """Makes the squared norm of every copy of a code infinite, so that only the first copy is ever the nearest.

    `ResidualVectorQuantizer.initialize` fills codebooks with copies.

    Shape: squares [K, size] of embed [K, size, D] -> [K, size].
    """
    ordered, order = squares.sort(dim=1, stable=True)
    codebook, position = (ordered[:, 1:] == ordered[:, :-1]).nonzero(as_tuple=True)
    first, second = order[codebook, position], order[codebook, position + 1]
    same = (embed[codebook, first] == embed[codebook, second]).all(1)
    squares[codebook[same], second[same]] = math.inf
    return squares


class NearestSearch:
    """Greedy residual quantization with the codebooks as they are when the object is made.

    The codes of a latent do not depend on the rest of the batch. Of codes at the same distance the first wins.

    Args:
        embed: Codes of the codebooks to use, shape [K, size, D].
    """

    def __init__(self, embed: Tensor) -> None:
        self.embed = embed
        self.center = embed.mean(1, keepdim=True)
        self.centered = embed - self.center
        squares = self.centered.square().sum(2)
        self.longest: list[float] = squares.amax(1).sqrt().tolist()
        self.squares = exclude_copies(squares, embed)

    @torch.no_grad()
    def __call__(self, latent: Tensor) -> Tensor:
        """Codes of all codebooks, each of the residual of the codebooks before it.

        Shape: latent [B, D, F] -> codes [B, K, F] int64.
        """
        residual = rearrange(latent, "b d f -> (b f) d").float()
        codes = []
        # bfloat16 has too few bits to tell nearby codes apart, and the error bound is that of IEEE products.
        with ieee_float32(latent.device):
            for k in range(len(self.embed)):
                codes.append(self._nearest(residual, k))
                residual = residual - F.embedding(codes[-1], self.embed[k])
        return rearrange(torch.stack(codes), "k (b f) -> b k f", b=latent.shape[0])

    def _nearest(self, vectors: Tensor, k: int) -> Tensor:
        """Shape: vectors [N, D] -> [N] int64."""
        centered = vectors - self.center[k]
        scores = torch.sub(self.squares[k], F.linear(centered, self.centered[k]), alpha=2)
        best, index = scores.min(1, keepdim=True)
        # Error bound: a sum of D products in any order has at most D roundings of the sum of their magnitudes, and
        # |<v, e>| <= |v| |e|. The subtraction of the center rounds once more on either side.
        longest = self.longest[k]
        error = (vectors.shape[1] + 4) * torch.finfo(torch.float32).eps * longest  # over |e| + 2 |v|
        limit = best + torch.linalg.vector_norm(centered, dim=1, keepdim=True).add_(longest / 2).mul_(4 * error)
        is_ambiguous = scores.scatter_(1, index, math.inf).amin(1, keepdim=True) <= limit
        if bool(is_ambiguous.any()):
            ambiguous = is_ambiguous.nonzero()[:, 0]
            candidates = scores[ambiguous].scatter_(1, index[ambiguous], -math.inf) <= limit[ambiguous]
            index[ambiguous, 0] = self._nearest_in_float64(candidates, vectors[ambiguous], k)
        return index[:, 0]

    def _nearest_in_float64(self, candidates: Tensor, vectors: Tensor, k: int) -> Tensor:
        """Shape: candidates [N, size] bool with at least one per row, vectors [N, D] -> [N] int64."""
        row, code = candidates.nonzero(as_tuple=True)
        distances = torch.cat([
            (vectors[r].double() - self.embed[k][c].double()).square().sum(1)
            for r, c in zip(row.split(_PAIRS), code.split(_PAIRS), strict=True)
        ])  # fmt: skip
        nearest = distances.new_full((len(vectors),), math.inf).scatter_reduce_(0, row, distances, "amin")
        size = self.embed.shape[1]
        first = torch.where(distances == nearest[row], code, size)
        return code.new_full((len(vectors),), size).scatter_reduce_(0, row, first, "amin")
