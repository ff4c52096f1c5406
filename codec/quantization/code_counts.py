"""How often each code is used."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from codec.quantization.kmeans import count
from codec.quantization.processes import all_reduce
from codec.quantization.quantizer import CodebookUsage

__all__ = ["CodeCounts", "flat_codes", "usage_of"]

_DEAD = 0.1  # fraction of the uniform share below which a code counts as dead


def flat_codes(codes: Tensor, size: int) -> Tensor:
    """Codes numbered through all codebooks, so that one histogram counts them: code c of codebook k is c + k * size.

    Shape: codes [B, K, F] -> [K * B * F].
    """
    index = rearrange(codes, "b k f -> k (b f)")
    return (index + torch.arange(0, size * len(index), size, device=index.device)[:, None]).flatten()


def usage_of(shares: Tensor, dead_fraction: Tensor) -> CodebookUsage:
    """Perplexity and entropy from the share of every code.

    Shape: shares [K, size], dead_fraction [K] -> each [K].
    """
    entropy = torch.special.entr(shares).sum(1)
    return CodebookUsage(entropy.exp(), dead_fraction, entropy / math.log(2))


class CodeCounts(nn.Module):
    """Moving averages of the share of every code, for quantizers that do not count codes themselves.

    They describe training and are no part of a model file.

    Buffers:
        shares [K, size]: moving averages; `size` is that of the largest codebook.

    Args:
        codebook_sizes: Number of codes of each codebook.
        decay: Of the moving averages, per update.
    """

    shares: Tensor

    def __init__(self, codebook_sizes: Sequence[int], decay: float = 0.99) -> None:
        super().__init__()
        self.sizes, self.decay = list(codebook_sizes), decay
        exists = torch.arange(max(self.sizes)) < torch.tensor(self.sizes)[:, None]
        self.register_buffer("shares", exists / torch.tensor(self.sizes)[:, None])

    @torch.no_grad()
    def update(self, codes: Tensor) -> None:
        """Counts the codes of one batch, of all processes together.

        Shape: codes [B, k, F] of the first k codebooks.
        """
        k, size = codes.shape[1], self.shares.shape[1]
        counts = all_reduce(count(flat_codes(codes, size), k * size)).view(k, size)
        self.shares[:k].lerp_(counts / counts.sum(1, keepdim=True).clamp_min(1), 1 - self.decay)

    def usage(self) -> CodebookUsage:
        """Perplexity, fraction of dead codes and entropy of every codebook."""
        sizes = torch.tensor(self.sizes, device=self.shares.device)[:, None]
        exists = torch.arange(self.shares.shape[1], device=self.shares.device) < sizes
        return usage_of(self.shares, (exists & (self.shares * sizes < _DEAD)).sum(1) / sizes[:, 0])
