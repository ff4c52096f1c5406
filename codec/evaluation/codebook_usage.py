"""How evenly a codec uses the codes of its codebooks.

Codes are counted per codebook (`count_codes`). Counts of several batches or clips add up.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from codec.quantization import CodebookUsage
from codec.quantization.code_counts import flat_codes, usage_of

__all__ = ["bitrate_efficiency", "codebook_usage", "codes_used", "count_codes"]


def count_codes(codes: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """How often each code of each codebook occurs.

    Shape: codes [B, K, F] of integers -> [K, largest codebook size] int64; 0 beyond the size of a smaller codebook.

    Raises:
        TypeError: The codes are not integers.
        ValueError: The codes are not [B, K, F] with K sizes, or a code lies outside its codebook.
    """
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise TypeError(f"expected integer codes, got {codes.dtype}")
    if codes.ndim != 3 or 0 in codes.shape or codes.shape[1] != len(codebook_sizes):
        raise ValueError(f"expected codes [B, {len(codebook_sizes)}, F], none of them 0, got {list(codes.shape)}")
    for k, size in enumerate(codebook_sizes):
        low, high = int(codes[:, k].min()), int(codes[:, k].max())
        if low < 0 or high >= size:
            raise ValueError(f"codebook {k + 1}: expected codes in 0 .. {size - 1}, got {low} .. {high}")
    width = max(codebook_sizes)
    flat = flat_codes(codes.long(), width)
    return torch.bincount(flat, minlength=len(codebook_sizes) * width).view(-1, width)


def codebook_usage(counts: Tensor, codebook_sizes: Sequence[int]) -> CodebookUsage:
    """Perplexity, share of codes that never occur, and entropy in bits of each codebook.

    All three are bounded by the number of codes counted: N codes reach a perplexity of at most N.

    Shape: counts [K, largest codebook size] -> each [K] float64.

    Raises:
        ValueError: A codebook has no code at all.
    """
    total = counts.sum(1, keepdim=True)
    if (total == 0).any():
        raise ValueError("expected at least one code of every codebook, got a codebook without any")
    sizes = torch.tensor(codebook_sizes, dtype=torch.float64, device=counts.device)
    return usage_of(counts.double() / total, 1 - (counts > 0).sum(1) / sizes)


def codes_used(counts: Tensor, codebook_sizes: Sequence[int]) -> float:
    """Share of the codes that occur at least once, mean over codebooks, in [0, 1].

    Shape: counts [K, largest codebook size].
    """
    return float(1 - codebook_usage(counts, codebook_sizes).dead_fraction.mean())


def bitrate_efficiency(counts: Tensor, codebook_sizes: Sequence[int]) -> float:
    """Sum of the codebooks' entropies over the sum of the bits that their codes take (Kumar et al. 2023), in [0, 1].

    Shape: counts [K, largest codebook size].

    Raises:
        ValueError: A codebook has fewer than two codes, so its codes take no bits.
    """
    if min(codebook_sizes) < 2:
        raise ValueError(f"expected codebooks of at least 2 codes, got {min(codebook_sizes)}")
    nominal_bits = sum(math.log2(size) for size in codebook_sizes)
    return float(codebook_usage(counts, codebook_sizes).bits.sum()) / nominal_bits
