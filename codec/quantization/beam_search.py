"""Codes of a residual quantizer that are better than each book's nearest, at the same bitrate and for any decoder.

The nearest code of the first books is not the best beginning of a sum of K codes. A beam search keeps several
beginnings and takes the best sum in the end, as encoders for additive quantization do (Babenko and Lempitsky 2014).
"""

import torch
from einops import rearrange
from torch import Tensor

from codec.quantization.nearest import without_copies

__all__ = ["BeamSearch"]

_DISTANCES = 1 << 20  # in float64 at a time: 8 MB


class BeamSearch:
    """Quantizes with the codebooks as they are when it is made, keeping the `beams` best sums after every book.

    Distances are taken in float64, so that equal latents get equal codes in whatever company but for sums that its
    rounding cannot tell apart.

    Args:
        embed: Codes, shape [K, size, D], of the books to use.
        beams: Sums to keep; with 1 every book takes what is nearest, as `CodeSearch` does.
    """

    def __init__(self, embed: Tensor, beams: int) -> None:
        self.embed = embed.double()
        self.squares = without_copies(self.embed.square().sum(2), self.embed)  # they would fill the beams
        self.beams = beams

    @torch.no_grad()
    def __call__(self, latent: Tensor) -> Tensor:
        """Codes whose sum is near the latent; latents that are not finite get some code.

        Shape: latent [B, D, F] -> codes [B, K, F] int64.
        """
        vectors = rearrange(torch.nan_to_num(latent.float()), "b d f -> (b f) d").double()
        some = max(1, _DISTANCES // (self.beams * self.embed.shape[1]))
        codes = torch.cat([self._best(part) for part in vectors.split(some)])
        return rearrange(codes, "(b f) k -> b k f", b=latent.shape[0])

    def _best(self, vectors: Tensor) -> Tensor:
        """Shape: vectors [N, D] -> codes [N, K]."""
        count, dim = vectors.shape
        residuals = vectors[:, None]  # [N, b, D]
        codes = torch.zeros(count, 1, 0, dtype=torch.int64, device=vectors.device)  # [N, b, k]
        for embed, squares in zip(self.embed, self.squares, strict=True):
            # |r - e|^2 for each of b beginnings and each code.
            distances = residuals.square().sum(2, keepdim=True) - 2 * (residuals @ embed.t()) + squares
            distances = distances.flatten(1)
            best = distances.topk(min(self.beams, distances.shape[1]), dim=1, largest=False).indices
            beginning, code = best // len(embed), best % len(embed)
            residuals = residuals.gather(1, beginning[..., None].expand(-1, -1, dim)) - embed[code]
            codes = codes.gather(1, beginning[..., None].expand(-1, -1, codes.shape[2]))
            codes = torch.cat([codes, code[..., None]], 2)
        return codes[:, 0]  # the nearest comes first
