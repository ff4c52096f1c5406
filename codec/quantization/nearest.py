"""The nearest codes of a residual quantizer, the same whatever the number of vectors searched at once.

A stream quantizes a frame at a time and a file hundreds. The quick way to the nearest code, |e|^2 - 2 <v, e> with one
matrix product, rounds differently for every number of vectors, and where vectors and codes share a large offset the
difference between two codes drowns in that rounding. Here both are taken relative to the mean of the book, and where
the product cannot tell codes apart by a bound on its rounding, their distances are taken in float64.
"""

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from codec.network import few_rows

__all__ = ["CodeSearch", "without_copies"]

_PAIRS = 1 << 14  # of vectors and codes whose distances are taken in float64 at a time: 16 MB at 128 dimensions


def without_copies(squares: Tensor, embed: Tensor) -> Tensor:
    """Makes the square of every copy of a code infinite, so that the first, which stands for all, is nearer.

    The start of a quantizer fills its books with copies.

    Shape: squares [K, size], of the codes embed [K, size, D] or relative to some point -> [K, size].
    """
    ordered, order = squares.sort(dim=1, stable=True)
    book, place = (ordered[:, 1:] == ordered[:, :-1]).nonzero(as_tuple=True)
    first, second = order[book, place], order[book, place + 1]
    same = (embed[book, first] == embed[book, second]).all(1)
    squares[book[same], second[same]] = math.inf
    return squares


class CodeSearch:
    """Quantizes with the codebooks as they are when it is made; a stream makes one and keeps it.

    Equal latents get equal codes, in whatever company; of codes at the same distance the first wins.

    Args:
        embed: Codes, shape [K, size, D], of the books to use.
    """

    def __init__(self, embed: Tensor) -> None:
        self.embed = embed
        self.center = embed.mean(1, keepdim=True)
        self.centered = embed - self.center
        squares = self.centered.square().sum(2)
        self.longest: list[float] = squares.amax(1).sqrt().tolist()
        self.squares = without_copies(squares, embed)  # they would be in doubt for ever

    @torch.no_grad()
    def __call__(self, latent: Tensor) -> Tensor:
        """Codes of all books, each for what the ones before it left over.

        Shape: latent [B, D, F] -> codes [B, K, F] int64.
        """
        residual = rearrange(latent, "b d f -> (b f) d").float()
        codes = []
        # Distances between nearby codes drown in bf16's 8 bits: they are always taken in float32.
        with torch.autocast(latent.device.type, enabled=False):
            for book in range(len(self.embed)):
                codes.append(self._nearest(residual, book))
                residual = residual - F.embedding(codes[-1], self.embed[book])
        return rearrange(torch.stack(codes), "k (b f) -> b k f", b=latent.shape[0])

    def _nearest(self, vectors: Tensor, book: int) -> Tensor:
        """Shape: vectors [N, D] -> [N] int64."""
        centered = vectors - self.center[book]
        scores = torch.sub(self.squares[book], few_rows.linear(centered, self.centered[book]), alpha=2)
        best, index = scores.min(1, keepdim=True)
        # A sum of D products, in any order, is off by at most D roundings of the sum of their magnitudes, and
        # |<v, e>| <= |v| |e|. The subtraction of the center rounds once more on either side.
        longest = self.longest[book]
        error = (vectors.shape[1] + 4) * torch.finfo(torch.float32).eps * longest  # over |e| + 2 |v|
        limit = best + torch.linalg.vector_norm(centered, dim=1, keepdim=True).add_(longest / 2).mul_(4 * error)
        in_doubt = scores.scatter_(1, index, math.inf).amin(1, keepdim=True) <= limit
        if bool(in_doubt.any()):
            doubtful = in_doubt.nonzero()[:, 0]
            candidates = scores[doubtful].scatter_(1, index[doubtful], -math.inf) <= limit[doubtful]
            index[doubtful, 0] = self._nearest_of(candidates, vectors[doubtful], book)
        return index[:, 0]

    def _nearest_of(self, candidates: Tensor, vectors: Tensor, book: int) -> Tensor:
        """By distances in float64.

        Shape: candidates [N, size] bool, at least one a row, vectors [N, D] -> [N] int64.
        """
        row, code = candidates.nonzero(as_tuple=True)
        distances = torch.cat([
            (vectors[r].double() - self.embed[book][c].double()).square().sum(1)
            for r, c in zip(row.split(_PAIRS), code.split(_PAIRS), strict=True)
        ])  # fmt: skip
        nearest = distances.new_full((len(vectors),), math.inf).scatter_reduce_(0, row, distances, "amin")
        size = self.embed.shape[1]
        first = torch.where(distances == nearest[row], code, size)
        return code.new_full((len(vectors),), size).scatter_reduce_(0, row, first, "amin")
