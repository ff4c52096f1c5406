"""Lloyd's algorithm, and the nearest code on which it and the residual quantizer's training rest."""

import torch
from torch import Tensor

__all__ = ["kmeans", "nearest"]


def kmeans(
    vectors: Tensor, clusters: int, iterations: int, generator: torch.Generator, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lloyd's algorithm from distinct random vectors, until no assignment changes.

    A cluster that loses all its vectors keeps its last centroid and a count of 0.

    Args:
        vectors: At least as many as clusters.
        generator: Draws the starting vectors (on the CPU, so that every device starts alike).
        weights: As how many each vector counts in its centroid; 1 if None.

    Shape: vectors [N, D], weights [N] -> centroids [clusters, D], counts [clusters], assignment [N].
    """
    first = torch.randperm(len(vectors), generator=generator)[:clusters].to(vectors.device)
    centroids = vectors[first]
    weights = torch.ones_like(vectors[:, 0]) if weights is None else weights
    weighted = vectors * weights[:, None]
    index = nearest(vectors, centroids)
    for _ in range(iterations):
        total = torch.bincount(index, weights, minlength=clusters)[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, index, weighted)
        centroids = torch.where(total > 0, sums / total, centroids)
        previous, index = index, nearest(vectors, centroids)
        if torch.equal(previous, index):
            break
    counts = torch.bincount(index, minlength=clusters).to(vectors.dtype)
    return centroids, counts, index


def nearest(vectors: Tensor, embed: Tensor) -> Tensor:
    """Index of the nearest code in Euclidean distance; |v|^2 is the same for all codes and left out.

    Shape: vectors [N, D], embed [size, D] -> [N] int64.
    """
    # Distances between nearby codes drown in bf16's 8 bits: they are always taken in float32.
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.addmm(embed.square().sum(1), vectors, embed.t(), alpha=-2).argmin(1)
