"""Lloyd's algorithm, and the nearest code on which it and the residual quantizer's training rest."""

import math

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
    """What cannot have changed is not computed anew: centroids of clusters that neither won nor lost a vector stay, and
    a vector is compared with all of them only once its own may no longer be the nearest. Up to rounding; on a tie it
    stays.

    Shape: vectors [N, D], weights [N], centroids [clusters, D] -> centroids [clusters, D], assignment [N].
    """
    weighted = vectors * weights[:, None]
    index = nearest(vectors, centroids)
    own = vectors.new_full((len(vectors),), math.inf)  # score of a vector's own centroid
    others = torch.empty_like(own)  # at most the scores of the others
    moved = torch.ones_like(centroids[:, 0], dtype=torch.bool)
    for _ in range(iterations):
        total = torch.bincount(index, weights, minlength=len(centroids))
        sums = torch.zeros_like(centroids).index_add_(0, index, weighted)
        centroids = torch.where((moved & (total > 0))[:, None], sums / total[:, None], centroids)
        if moved.all():
            others.fill_(-math.inf)  # nothing is known of them
        else:
            _follow(vectors, centroids, moved, index, own, others)
        previous = index.clone()
        _reassign(vectors, centroids, index, own, others)
        crossing = previous != index
        if not crossing.any():
            break
        moved = torch.zeros_like(moved)
        moved[previous[crossing]] = True
        moved[index[crossing]] = True
    return centroids, index


def _follow(vectors: Tensor, centroids: Tensor, moved: Tensor, index: Tensor, own: Tensor, others: Tensor) -> None:
    """Scores `own` and `others`, in place, after the centroids of `moved` did so.

    Shape: vectors [N, D], centroids [clusters, D], moved [clusters], index, own and others [N].
    """
    place = moved.cumsum(0) - 1  # among those that moved
    of_moved = centroids[moved]
    for v, i, mine, best in zip(*(x.split(_ROWS) for x in (vectors, index, own, others)), strict=True):
        scores = _scores(v, of_moved)
        rows = moved[i].nonzero()[:, 0]
        columns = place[i[rows]]
        mine[rows] = scores[rows, columns]
        scores[rows, columns] = math.inf
        torch.minimum(best, scores.amin(1), out=best)


def _reassign(vectors: Tensor, centroids: Tensor, index: Tensor, own: Tensor, others: Tensor) -> None:
    """Compares the vectors whose own centroid may not be the nearest with all of them; in place.

    Shape: vectors [N, D], centroids [clusters, D], index, own and others [N].
    """
    for rows in (own > others).nonzero()[:, 0].split(_ROWS):
        scores = _scores(vectors[rows], centroids)
        column = index[rows, None]
        mine = scores.gather(1, column)[:, 0]
        best, nearer = scores.scatter_(1, column, math.inf).min(1)
        index[rows] = torch.where(best < mine, nearer, column[:, 0])
        own[rows], others[rows] = mine, best  # of a vector that crosses, either centroid moves, and `_follow` knows


def nearest(vectors: Tensor, embed: Tensor) -> Tensor:
    """Index of the nearest code in Euclidean distance; of several the first.

    Shape: vectors [N, D], embed [size, D] -> [N] int64.
    """
    # Not `argmin`, which takes three times as long on a CPU.
    return torch.cat([_scores(part, embed).min(1).indices for part in vectors.split(_ROWS)])


def _scores(vectors: Tensor, embed: Tensor) -> Tensor:
    """Squared distances to all codes, less |v|^2, which is the same for them all.

    Shape: vectors [N, D], embed [size, D] -> [N, size].
    """
    # Distances between nearby codes drown in bf16's 8 bits: they are always taken in float32.
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.addmm(embed.square().sum(1), vectors, embed.t(), alpha=-2)
