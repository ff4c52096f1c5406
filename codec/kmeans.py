"""Lloyd's algorithm, and the nearest code on which it and the residual quantizer's training rest."""

from collections.abc import Iterator

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
    """Centroids of clusters that neither won nor lost a vector stay, and of distances only those to the others change.

    Shape: vectors [N, D], weights [N], centroids [clusters, D] -> centroids [clusters, D], assignment [N].
    """
    weighted = vectors * weights[:, None]
    index = nearest(vectors, centroids)
    score = _score(vectors, centroids, index)
    moved = torch.ones_like(centroids[:, 0], dtype=torch.bool)
    for _ in range(iterations):
        total = torch.bincount(index, weights, minlength=len(centroids))
        sums = torch.zeros_like(centroids).index_add_(0, index, weighted)
        centroids = torch.where((moved & (total > 0))[:, None], sums / total[:, None], centroids)
        previous = index
        index, score = _reassigned(vectors, centroids, moved, index, score)
        crossing = previous != index
        if not crossing.any():
            break
        moved = torch.zeros_like(moved)
        moved[previous[crossing]] = True
        moved[index[crossing]] = True
    return centroids, index


def _reassigned(
    vectors: Tensor, centroids: Tensor, moved: Tensor, index: Tensor, score: Tensor
) -> tuple[Tensor, Tensor]:
    """Assignment, and its scores, after the centroids of `moved` did so.

    The others are no nearer to a vector than its own centroid was. So where that has come nearer, only those of `moved`
    can be nearer still, and all need be compared only where it has gone away. Up to rounding; on a tie it stays.

    Shape: vectors [N, D], centroids [clusters, D], moved [clusters], index and score [N] -> [N], [N].
    """
    now = torch.where(moved[index], _score(vectors, centroids, index), score)
    left, stayed = (now > score).nonzero()[:, 0], (now <= score).nonzero()[:, 0]
    candidates = moved.nonzero()[:, 0]
    of_moved = centroids[candidates]
    to_moved = torch.cat([
        scores.amin(1) for part in stayed.split(_ROWS) for scores in _scores(vectors[part], of_moved)
    ])  # fmt: skip
    closer = stayed[to_moved < now[stayed]]
    index = index.clone()
    index[left] = nearest(vectors[left], centroids)
    index[closer] = candidates[nearest(vectors[closer], of_moved)]
    changed = torch.cat([left, closer])
    now[changed] = _score(vectors[changed], centroids, index[changed])
    return index, now


def nearest(vectors: Tensor, embed: Tensor) -> Tensor:
    """Index of the nearest code in Euclidean distance.

    Shape: vectors [N, D], embed [size, D] -> [N] int64.
    """
    return torch.cat([scores.argmin(1) for scores in _scores(vectors, embed)])


def _score(vectors: Tensor, embed: Tensor, index: Tensor) -> Tensor:
    """Squared distance to a code each, less |v|^2, which is the same for all codes.

    Shape: vectors [N, D], embed [size, D], index [N] -> [N].
    """
    squares, scores = embed.square().sum(1), []
    for part, codes in zip(vectors.split(_ROWS), index.split(_ROWS), strict=True):
        scores.append(squares[codes] - 2 * (part * embed[codes]).sum(1))
    return torch.cat(scores)


def _scores(vectors: Tensor, embed: Tensor) -> Iterator[Tensor]:
    """Of some vectors at a time, to all codes.

    Shape: vectors [N, D], embed [size, D] -> [n, size] each.
    """
    squares = embed.square().sum(1)
    for part in vectors.split(_ROWS):
        # Distances between nearby codes drown in bf16's 8 bits: they are always taken in float32.
        with torch.autocast(vectors.device.type, enabled=False):
            scores = torch.addmm(squares, part, embed.t(), alpha=-2)
        yield scores
