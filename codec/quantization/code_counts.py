"""How often each code is used, for quantizers that do not count codes themselves."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn

from codec.quantization.kmeans import count
from codec.quantization.quantizer import CodebookUsage

__all__ = ["CodeCounts"]

_DEAD = 0.1  # fraction of the uniform share below which a code counts as dead


class CodeCounts(nn.Module):
    """Moving averages of the share of every code. They describe training and are no part of a model file.

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
        index = rearrange(codes, "b k f -> k (b f)")
        k, size = len(index), self.shares.shape[1]
        flat = index + size * torch.arange(k, device=index.device)[:, None]
        counts = count(flat.flatten(), k * size).view(k, size)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(counts)
        self.shares[:k].lerp_(counts / counts.sum(1, keepdim=True).clamp_min(1), 1 - self.decay)

    def usage(self) -> CodebookUsage:
        """Perplexity, fraction of dead codes and entropy of every codebook."""
        sizes = torch.tensor(self.sizes, device=self.shares.device)[:, None]
        exists = torch.arange(self.shares.shape[1], device=self.shares.device) < sizes
        entropy = torch.special.entr(self.shares).sum(1)
        dead = (exists & (self.shares * sizes < _DEAD)).sum(1) / sizes[:, 0]
        return CodebookUsage(entropy.exp(), dead, entropy / math.log(2))
