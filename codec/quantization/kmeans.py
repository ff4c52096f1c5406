"""Lloyd's algorithm, and the nearest code by one matrix product."""

import math

import torch
from torch import Tensor

from codec.quantization.ieee import ieee_float32

__all__ = ["count", "kmeans", "nearest"]

_SAMPLE = 64  # vectors per cluster in the main iterations; more of them hardly change the clusters
_FULL_ITERATIONS = 2  # over all vectors, after those over the sample
_ROWS = 8192  # vectors per distance computation, which bounds the memory


def kmeans(
    vectors: Tensor, clusters: int, iterations: int, generator: torch.Generator, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lloyd's algorithm from distinct random vectors, until no assignment changes.

    With more than 64 vectors per cluster the iterations run on a random sample of that size, and two more run on all
    vectors. A cluster that loses all its vectors keeps its last centroid and a count of 0.

    Args:
        vectors: At least as many vectors as clusters.
        clusters: Number of clusters.
        iterations: Largest number of iterations.
        generator: Draws the first centroids, on the CPU, so that the draws do not depend on the device.
        weights: Weight of each vector in its centroid; 1 if None.

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
        centroids, index = _lloyd(vectors, weights, centroids, min(iterations, _FULL_ITERATIONS))
    return centroids, count(index, clusters).to(vectors.dtype), index


def count(index: Tensor, clusters: int, weights: Tensor | None = None) -> Tensor:
    """Number of vectors of each cluster, or the sum of their weights.

    Unlike `torch.bincount`, this does not wait for the device, and it has a deterministic form on CUDA.

    Shape: index [N], weights [N] -> [clusters] float32.
    """
    ones = torch.ones((), device=index.device).expand(len(index)) if weights is None else weights
    return torch.zeros(clusters, dtype=ones.dtype, device=index.device).index_add_(0, index, ones)


def _lloyd(vectors: Tensor, weights: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm that recomputes only what can have changed.

    Centroids of clusters that neither gained nor lost a vector stay. A vector is compared with all centroids only if
    its own may no longer be the nearest. The result is that of the plain algorithm up to rounding; on a tie a vector
    keeps its cluster.

    Shape: vectors [N, D], weights [N], centroids [clusters, D] -> centroids [clusters, D], assignment [N].
    """
    weighted = vectors * weights[:, None]
    index = nearest(vectors, centroids)
    own = vectors.new_full((len(vectors),), math.inf)  # score of each vector's own centroid
    others = torch.empty_like(own)  # lower bound on the scores of all other centroids
    moved = torch.ones_like(centroids[:, 0], dtype=torch.bool)
    for _ in range(iterations):
        total = count(index, len(centroids), weights)
        sums = torch.zeros_like(centroids).index_add_(0, index, weighted)
        centroids = torch.where((moved & (total > 0))[:, None], sums / total[:, None], centroids)
        if moved.all():
            others.fill_(-math.inf)  # no bound
        else:
            _update_scores(vectors, centroids, moved, index, own, others)
        previous = index.clone()
        _reassign(vectors, centroids, index, own, others)
        crossing = previous != index
        if not crossing.any():
            break
        moved = torch.zeros_like(moved)
        moved[previous[crossing]] = True
        moved[index[crossing]] = True
    return centroids, index


def _update_scores(
    vectors: Tensor, centroids: Tensor, moved: Tensor, index: Tensor, own: Tensor, others: Tensor
) -> None:
    """Updates `own` and `others`, in place, after the centroids in `moved` have changed.

    Shape: vectors [N, D], centroids [clusters, D], moved [clusters], index, own and others [N].
    """
    rank = moved.cumsum(0) - 1  # index of a centroid among those that moved
    moved_centroids = centroids[moved]
    for v, i, mine, best in zip(*(x.split(_ROWS) for x in (vectors, index, own, others)), strict=True):
        scores = _scores(v, moved_centroids)
        rows = moved[i].nonzero()[:, 0]
        columns = rank[i[rows]]
        mine[rows] = scores[rows, columns]
        scores[rows, columns] = math.inf
        torch.minimum(best, scores.amin(1), out=best)


def _reassign(vectors: Tensor, centroids: Tensor, index: Tensor, own: Tensor, others: Tensor) -> None:
    """Compares the vectors whose own centroid may not be the nearest with all centroids, in place.

    Shape: vectors [N, D], centroids [clusters, D], index, own and others [N].
    """
    for rows in (own > others).nonzero()[:, 0].split(_ROWS):
        scores = _scores(vectors[rows], centroids)
        column = index[rows, None]
        mine = scores.gather(1, column)[:, 0]
        best, nearer = scores.scatter_(1, column, math.inf).min(1)
        index[rows] = torch.where(best < mine, nearer, column[:, 0])
        own[rows], others[rows] = mine, best  # if a vector changes its cluster, both centroids move


def nearest(vectors: Tensor, embed: Tensor, squares: Tensor | None = None) -> Tensor:
    """Index of the nearest code in Euclidean distance; the first of several.

    Args:
        squares: Squared norms of the codes, computed if None.

    Shape: vectors [N, D], embed [size, D], squares [size] -> [N] int64.
    """
    squares = embed.square().sum(1) if squares is None else squares
    # `min` takes a third of the time of `argmin` on a CPU.
    found = [_scores(part, embed, squares).min(1).indices for part in vectors.split(_ROWS)]
    return found[0] if len(found) == 1 else torch.cat(found)


def _scores(vectors: Tensor, embed: Tensor, squares: Tensor | None = None) -> Tensor:
    """Squared distances to all codes, less |v|^2, which is the same for all codes.

    Shape: vectors [N, D], embed [size, D], squares [size] -> [N, size].
    """
    squares = embed.square().sum(1) if squares is None else squares
    # bfloat16 has too few bits to tell nearby codes apart.
    with ieee_float32(vectors.device):
        return torch.addmm(squares, vectors, embed.t(), alpha=-2)
