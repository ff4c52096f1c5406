"""Weighted means of many tensors of different sizes, in a few kernels for all of them."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["mean_weights"]


@functools.lru_cache(maxsize=32)
def mean_weights(
    sizes: Sequence[int], factors: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Weights w of the concatenation x of tensors x_k for which mean(w x) = Σ_k factors_k mean(x_k).

    They are copied to the device once for each size, because the host waits for such a copy.

    Args:
        sizes: Number of elements of each tensor, a tuple.
        factors: Weight of each mean, a tuple.

    Shape: -> [sum of sizes].
    """
    with torch.inference_mode(False):  # tensors made in inference mode cannot be used for gradients
        weights = [factor * sum(sizes) / size for factor, size in zip(factors, sizes, strict=True)]
        return torch.tensor(weights, dtype=dtype).repeat_interleave(torch.tensor(sizes)).to(device)
