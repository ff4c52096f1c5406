"""Lloyd's algorithm, and the nearest code on which it and the residual quantizer's training rest."""

import torch
from torch import Tensor

__all__ = ["kmeans", "nearest"]

_SAMPLE = 64  # vectors a cluster: beyond, more of them place the centroids better, but not the cells
_WHOLE = 2  # iterations over all of them
_ROWS = 8192  # whose distances are taken at once: they stay in the cache, and millions of vectors fit the memory


def kmeans(
    vectors: Tensor, clusters: int, iterations: int, generator: torch.Generator, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lloyd's algorithm from distinct random vectors, until no assignment changes.

    With more than 64 vectors a cluster the iterations run on so many of them, drawn at random, and two more on all.
    A cluster that loses all its vectors keeps its last centroid and a count of 0.

    Args:
        vectors: At least as many as clusters.
        iterations: At most.
        generator: Draws the starting vectors (on the CPU, so that every device starts alike).
        weights: As how many each vector counts in its centroid; 1 if None.

    Shape: vectors [N, D], weights [N] -> centroids [clusters, D], counts [clusters], assignment [N].
    """
    order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
    centroids = vectors[order[:clusters]]
    weights = torch.ones_like(vectors[:, 0]) if weights is None else weights
    sample = order[: _SAMPLE * clusters]
    if len(sample) == len(vectors):
        centroids, index = _lloyd(vectors, weights, centroids, iterations)
    else:
        centroids, _ = _lloyd(vectors[sample], weights[sample], centroids, iterations)
        centroids, index = _lloyd(vectors, weights, centroids, min(iterations, _WHOLE))
    counts = torch.bincount(index, minlength=clusters).to(vectors.dtype)
    return centroids, counts, index


def _lloyd(vectors: Tensor, weights: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Shape: vectors [N, D], weights [N], centroids [clusters, D] -> centroids [clusters, D], assignment [N]."""
    weighted = vectors * weights[:, None]
    index = nearest(vectors, centroids)
    for _ in range(iterations):
        total = torch.bincount(index, weights, minlength=len(centroids))[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, index, weighted)
        centroids = torch.where(total > 0, sums / total, centroids)
        previous, index = index, nearest(vectors, centroids)
        if torch.equal(previous, index):
            break
    return centroids, index


def nearest(vectors: Tensor, embed: Tensor) -> Tensor:
    """Index of the nearest code in Euclidean distance; |v|^2 is the same for all codes and left out.

    Shape: vectors [N, D], embed [size, D] -> [N] int64.
    """
    # Distances between nearby codes drown in bf16's 8 bits: they are always taken in float32.
    with torch.autocast(vectors.device.type, enabled=False):
        squares = embed.square().sum(1)
        parts = [torch.addmm(squares, part, embed.t(), alpha=-2).argmin(1) for part in vectors.split(_ROWS)]
        return torch.cat(parts)
