"""Beam search for the codes of a residual quantizer: a smaller error at the same bitrate, for any decoder.

The nearest code of every codebook in turn does not give the best sum of K codes. A beam search keeps several partial
sums and takes the best sum at the end, as encoders for additive quantization do (Babenko and Lempitsky 2014).
"""

import torch
from einops import rearrange
from torch import Tensor

from codec.quantization.nearest import exclude_copies

__all__ = ["BeamSearch"]

_DISTANCES = 1 << 20  # float64 distances at a time: 8 MB


class BeamSearch:
    """Quantizes with the codebooks as they are when the object is made.

    Distances are computed in float64. So the codes of a latent do not depend on the rest of the batch, except for sums
    that float64 rounding cannot tell apart.

    Args:
        embed: Codes of the codebooks to use, shape [K, size, D].
        beams: Number of best partial sums kept after every codebook. With 1 the search is greedy, as `NearestSearch`.
    """

    def __init__(self, embed: Tensor, beams: int) -> None:
        self.embed = embed.double()
        self.squares = exclude_copies(self.embed.square().sum(2), self.embed)
        self.beams = beams

    @torch.no_grad()
    def __call__(self, latent: Tensor) -> Tensor:
        """Codes whose sum is near the latent. A latent that is not finite gets arbitrary codes.

        Shape: latent [B, D, F] -> codes [B, K, F] int64.
        """
        vectors = rearrange(torch.nan_to_num(latent.float()), "b d f -> (b f) d").double()
        rows = max(1, _DISTANCES // (self.beams * self.embed.shape[1]))
        codes = torch.cat([self._best(part) for part in vectors.split(rows)])
        return rearrange(codes, "(b f) k -> b k f", b=latent.shape[0])

    def _best(self, vectors: Tensor) -> Tensor:
        """Shape: vectors [N, D] -> codes [N, K]."""
        count, dim = vectors.shape
        residuals = vectors[:, None]  # [N, b, D]
        codes = torch.zeros(count, 1, 0, dtype=torch.int64, device=vectors.device)  # [N, b, k]
        for embed, squares in zip(self.embed, self.squares, strict=True):
            # |r - e|^2 of each partial sum and each code.
            distances = residuals.square().sum(2, keepdim=True) - 2 * (residuals @ embed.t()) + squares
            distances = distances.flatten(1)
            best = distances.topk(min(self.beams, distances.shape[1]), dim=1, largest=False).indices
            beam, code = best // len(embed), best % len(embed)
            residuals = residuals.gather(1, beam[..., None].expand(-1, -1, dim)) - embed[code]
            codes = codes.gather(1, beam[..., None].expand(-1, -1, codes.shape[2]))
            codes = torch.cat([codes, code[..., None]], 2)
        return codes[:, 0]  # sorted: the smallest error comes first
