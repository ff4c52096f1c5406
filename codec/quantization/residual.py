"""Residual vector quantizer with moving-average codebooks (SoundStream, Zeghidour et al. 2021; EnCodec section 3.2).

The forward pass changes nothing: it returns what `update` needs, and the trainer calls `update` once it knows that
the step was sound. So a non-finite batch never reaches the codebooks, and a codec can be run for a measurement
without being altered.
"""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from codec.quantization.beam_search import BeamSearch
from codec.quantization.kmeans import kmeans, nearest
from codec.quantization.nearest import CodeSearch

__all__ = ["CodebookUsage", "QuantizerOutput", "ResidualVectorQuantizer"]

_FLOOR = 0.01  # of the mean energy: below it, silence, latents count alike


class QuantizerOutput(NamedTuple):
    """What a forward pass through the quantizer found."""

    latent: Tensor  # [B, D, F] quantized; its gradient passes straight through to the input
    codes: Tensor  # [B, K, F] int64
    commitment: Tensor  # [K] mean squared distance between what a book was given and what it returned
    residuals: Tensor  # [K, N, D] what each book was given, N = B * F; detached


class CodebookUsage(NamedTuple):
    """How evenly each book uses its codes, from the moving averages of the counts."""

    perplexity: Tensor  # [K] exp of the entropy: the number of codes in effective use
    dead_share: Tensor  # [K] share of codes below the revival threshold
    bits: Tensor  # [K] entropy in bits per code


class ResidualVectorQuantizer(nn.Module):
    """K codebooks, each quantizing what the ones before it left over.

    Buffers:
        embed [K, size, D]: the codes.
        cluster_size [K, size]: moving average of how many vectors of a batch a code was given.
        embed_sum [K, size, D]: moving average of the sum of those vectors; embed = embed_sum / cluster_size.
        started [] bool: whether `start` has run.
        updates [] int64: number of updates; the draws of the revival depend on it and on nothing else.

    Args:
        latent_dim: Width D of the latent.
        codebooks: Number K of books.
        codebook_size: Codes per book.
        decay: Of the moving averages per update.
        kmeans_iterations: At most this many in `start`.
        revive_below: A code whose share of the vectors falls below this share of the uniform 1 / size is dead
            and starts anew from a vector of the batch (threshold relative to uniform use as in Mimi; encodec's
            absolute count of 2 depends on batch and segment). 0 never revives.
        energy_exponent: p, with which a latent x counts as (|x|^2 / mean |x|^2 + 1/100)^-p vectors in `start`. 0 takes
            all alike (EnCodec), and loud frames, whose errors are the largest, get most of the codes. With 1 it is the
            error relative to a frame's energy that is made small, nearly what a log spectrum hears. In `update` all
            count alike: within the cell of a code they hardly differ in energy, and the cells stay.

    Attributes:
        beams: Sums that `encode` and `search` keep after every book (`BeamSearch`); 1, the greedy search of EnCodec,
            until it is set. Training is greedy, and it is no part of the state: any decoder reads the codes.
    """

    embed: Tensor
    cluster_size: Tensor
    embed_sum: Tensor
    started: Tensor
    updates: Tensor

    def __init__(
        self,
        latent_dim: int,
        codebooks: int,
        codebook_size: int,
        *,
        decay: float = 0.99,
        kmeans_iterations: int = 50,
        revive_below: float = 0.1,
        energy_exponent: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"codebook decay must be in [0, 1), got {decay}")
        if not 0 <= revive_below < 1:
            raise ValueError(f"revive_below must be in [0, 1), got {revive_below}")
        if not 0 <= energy_exponent < math.inf:
            raise ValueError(f"energy_exponent must be a finite number of 0 or more, got {energy_exponent}")
        self.decay = decay
        self.kmeans_iterations = kmeans_iterations
        self.revive_below = revive_below
        self.energy_exponent = energy_exponent
        self.beams = 1
        generator = torch.Generator().manual_seed(0)
        embed = torch.randn(codebooks, codebook_size, latent_dim, generator=generator)
        self.register_buffer("embed", embed)
        self.register_buffer("cluster_size", torch.ones(codebooks, codebook_size))
        self.register_buffer("embed_sum", embed.clone())
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("updates", torch.tensor(0))

    def forward(self, latent: Tensor, codebooks: int | None = None) -> QuantizerOutput:
        """Quantizes with the first `codebooks` books, all if None.

        Every book has its own commitment term with a gradient to the latent: book k is given the latent minus
        the *detached* codes before it (encodec subtracts the straight-through value, whose gradient cancels the
        latent's, so that only its first book commits: encodec issue 25).

        Shape: latent [B, D, F] -> QuantizerOutput.
        """
        batch = latent.shape[0]
        x = rearrange(latent, "b d f -> (b f) d").float()
        residual, codes, commitments, residuals = x, [], [], []
        for embed in self.embed[:codebooks]:
            index = nearest(residual.detach(), embed)
            code = F.embedding(index, embed)
            residuals.append(residual.detach())
            commitments.append(F.mse_loss(residual, code))
            residual = residual - code
            codes.append(index)
        # Straight-through estimator: the value is x - residual, the gradient that of x.
        quantized = x - residual.detach()
        return QuantizerOutput(
            rearrange(quantized, "(b f) d -> b d f", b=batch),
            rearrange(torch.stack(codes), "k (b f) -> b k f", b=batch),
            torch.stack(commitments),
            torch.stack(residuals),
        )

    def encode(self, latent: Tensor, codebooks: int | None = None) -> Tensor:
        """Codes without gradients; the same for equal latents however many are quantized at once.

        Shape: latent [B, D, F] -> codes [B, K, F] int64.
        """
        return self.search(codebooks)(latent)

    def search(self, codebooks: int | None = None) -> CodeSearch | BeamSearch:
        """`encode` for many calls with the first `codebooks` books as they are now, all if None."""
        embed = self.embed[:codebooks]
        return CodeSearch(embed) if self.beams == 1 else BeamSearch(embed, self.beams)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the codes of the first K books.

        Shape: codes [B, K, F] -> latent [B, D, F].

        Raises:
            ValueError: There are more codes a frame than books.
        """
        books = codes.shape[1]
        if books > len(self.embed):
            raise ValueError(f"expected codes of at most {len(self.embed)} codebooks, got {books}")
        vectors = [F.embedding(codes[:, k], self.embed[k]) for k in range(books)]
        return rearrange(torch.stack(vectors).sum(0), "b f d -> b d f")

    @torch.no_grad()
    def start(self, vectors: Tensor, seed: int = 0, batches: int = 1) -> None:
        """Sets every book to the k-means centroids of what the books before it leave over.

        `embed_sum` becomes centroid times count. (encodec and audiocraft store the bare centroid beside the
        count, so their first update divides every code by its count.) With fewer than four vectors a code
        the rest of the book is left dead, for `update` to revive from later batches, and so is a centroid of
        one vector: centroids that reproduce single vectors would leave the books after this one nothing to
        learn from.

        Args:
            batches: So many training batches the vectors come from. The counts become those of one: k-means then weighs
                in the moving averages as much as the updates would that it stands for, rather than many times that,
                which would hold the codes in place for ln(batches) / (1 - decay) updates.

        Shape: vectors [N, D].
        """
        residual = vectors.float()
        size = self.embed.shape[1]
        clusters = max(1, min(size, len(residual) // 4))
        generator = torch.Generator().manual_seed(seed)
        energy = residual.square().sum(1)
        # Silence alone has no energy to compare with.
        relative = energy / energy.mean().clamp_min(torch.finfo(energy.dtype).tiny)
        weights = (relative + _FLOOR) ** -self.energy_exponent
        for k in range(len(self.embed)):
            centroids, counts, index = kmeans(residual, clusters, self.kmeans_iterations, generator, weights)
            if (counts == 1).any() and (counts > 1).any():
                centroids = centroids[counts > 1]
                index = nearest(residual, centroids)
                counts = torch.bincount(index, minlength=len(centroids)).to(counts.dtype)
            # Copies of live codes fill the book: the lower index wins a tie, so copies are never chosen.
            self.embed[k] = centroids[torch.arange(size, device=centroids.device) % len(centroids)]
            self.cluster_size[k] = F.pad(counts, (0, size - len(centroids))) / batches
            residual = residual - centroids[index]
        self.embed_sum.copy_(self.embed * self.cluster_size[..., None])
        self.started.fill_(True)

    @torch.no_grad()
    def update(self, output: QuantizerOutput) -> None:
        """One moving-average step of the books that took part in `output`, then revives their dead codes.

        Of several processes all take the step together: sums are over all of them, and the books stay alike.
        """
        residuals = output.residuals
        k, n, dim = residuals.shape
        size = self.embed.shape[1]
        index = rearrange(output.codes, "b k f -> k (b f)")
        flat = (index + size * torch.arange(k, device=index.device)[:, None]).flatten()
        counts = torch.bincount(flat, minlength=k * size).view(k, size).to(residuals.dtype)
        sums = residuals.new_zeros(k * size, dim).index_add_(0, flat, residuals.reshape(k * n, dim))
        self.cluster_size[:k].lerp_(_total(counts), 1 - self.decay)
        self.embed_sum[:k].lerp_(_total(sums).view(k, size, dim), 1 - self.decay)
        self._revive(residuals)
        # A code that was never used keeps its place: both averages decay alike. The clamp only guards 0 / 0.
        used = self.cluster_size[:k, :, None]
        self.embed[:k] = torch.where(used > 1e-12, self.embed_sum[:k] / used.clamp_min(1e-12), self.embed[:k])
        self.updates += 1

    def _revive(self, residuals: Tensor) -> None:
        """Moves dead codes onto distinct vectors of the batch; all three averages change together.

        A revived code gets the usage of an average one, so it has ln(1 / revive_below) / (1 - decay) updates
        to prove itself.
        """
        dead = self._dead()[: len(residuals)]
        if not dead.any():
            return
        residuals = _joined(residuals)
        k, n, _ = residuals.shape
        generator = torch.Generator().manual_seed(int(self.updates))
        order = torch.argsort(torch.rand(k, n, generator=generator), dim=1).to(residuals.device)
        rank = dead.cumsum(1) - 1
        dead = dead & (rank < n)
        chosen = order.gather(1, rank.clamp(0, n - 1))
        vectors = residuals[torch.arange(k, device=residuals.device)[:, None], chosen]
        average = self.cluster_size[:k].mean(1, keepdim=True).expand_as(rank)
        self.cluster_size[:k] = torch.where(dead, average, self.cluster_size[:k])
        self.embed_sum[:k] = torch.where(dead[..., None], vectors * average[..., None], self.embed_sum[:k])

    def _dead(self) -> Tensor:
        threshold = self.revive_below * self.cluster_size.mean(1, keepdim=True)
        return (self.cluster_size < threshold) if self.revive_below else torch.zeros_like(self.cluster_size).bool()

    def usage(self) -> CodebookUsage:
        """Perplexity, dead share and entropy of every book, from the moving averages."""
        share = self.cluster_size / self.cluster_size.sum(1, keepdim=True).clamp_min(1e-12)
        entropy = torch.special.entr(share).sum(1)
        return CodebookUsage(entropy.exp(), self._dead().float().mean(1), entropy / torch.log(torch.tensor(2.0)))


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _total(tensor: Tensor) -> Tensor:
    """Sum over processes, in place. Shape: [*] -> [*]."""
    if _processes() > 1:
        dist.all_reduce(tensor)
    return tensor


def _joined(residuals: Tensor) -> Tensor:
    """The vectors of all processes, in their order. Shape: [K, N, D] -> [K, processes * N, D]."""
    if _processes() == 1:
        return residuals
    parts = [torch.empty_like(residuals) for _ in range(_processes())]
    dist.all_gather(parts, residuals.contiguous())
    return torch.cat(parts, dim=1)
