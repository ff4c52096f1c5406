"""Residual vector quantizer with moving-average codebooks (SoundStream, Zeghidour et al. 2021; EnCodec section 3.2).

The forward pass changes no state. It returns what `update` needs, and the trainer calls `update` after a step whose
loss was finite. So a non-finite batch never reaches the codebooks.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from codec.quantization.beam_search import BeamSearch
from codec.quantization.code_counts import flat_codes, usage_of
from codec.quantization.dead_codes import replacement_vectors
from codec.quantization.kmeans import count, kmeans, nearest
from codec.quantization.nearest import NearestSearch
from codec.quantization.processes import all_reduce, world_size
from codec.quantization.quantizer import CodebookUsage, QuantizerOutput
from codec.quantization.weights import check_state
from codec.ranges import CodebookCount, CodebookSize, NonNegativeFloat, ProperFraction, Size, check_ranges

__all__ = ["ResidualVectorQuantizer"]

_ENERGY_FLOOR = 0.01  # of the mean energy; quieter latents are weighted as if they had this energy


class ResidualVectorQuantizer(nn.Module):
    """K codebooks, each quantizing the residual of the codebooks before it.

    Buffers:
        embed [K, size, D]: the codes.
        cluster_size [K, size]: moving average of the number of vectors of a batch that a code was assigned.
        embed_sum [K, size, D]: moving average of the sum of those vectors; embed = embed_sum / cluster_size.
        is_initialized [] bool: whether `initialize` has run.
        updates [] int64: number of updates; the draws of `update` are a function of it.

    Args:
        latent_dim: Width D of the latent.
        num_codebooks: Number K of codebooks.
        codebook_size: Codes per codebook, a power of two so that a code is a whole number of bits.
        decay: Decay of the moving averages per update.
        kmeans_iterations: Largest number of k-means iterations in `initialize`.
        dead_code_threshold: A code is dead if its share of the vectors is below this fraction of the uniform share
            1 / size (relative to uniform usage as in Mimi; encodec has an absolute count of 2, which depends on batch
            and segment). Dead codes are replaced by vectors of the batch. 0 never replaces.
        energy_exponent: Weight exponent p of `initialize`: a latent x counts as (|x|^2 / mean |x|^2 + 1/100)^-p
            vectors. With 0 all count alike (EnCodec), and loud frames, whose errors are the largest, get most codes.
            With 1 the error relative to the energy of a frame is minimised. `update` counts all alike.
        estimator: Gradient of the sum of the codes to the latent, such as `rotation`. None: straight through.

    Attributes:
        beams: Number of candidate sums that `encode` and `search` keep after every codebook, see `BeamSearch`. 1 is
            the greedy search of EnCodec. It is no part of the state: any decoder reads the codes.

    Raises:
        ValueError: A value is out of range; the message names it and the range.
    """

    embed: Tensor
    cluster_size: Tensor
    embed_sum: Tensor
    is_initialized: Tensor
    updates: Tensor

    def __init__(
        self,
        *,
        latent_dim: Size = 128,
        num_codebooks: CodebookCount = 32,
        codebook_size: CodebookSize = 1024,
        decay: ProperFraction = 0.99,
        kmeans_iterations: Annotated[int, Ge(0), Le(100_000)] = 50,
        dead_code_threshold: ProperFraction = 0.1,
        energy_exponent: NonNegativeFloat = 0.0,
        estimator: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_ranges(ResidualVectorQuantizer.__init__, locals())
        if codebook_size & (codebook_size - 1):
            raise ValueError(f"codebook_size must be a power of two, got {codebook_size}")
        self.decay = decay
        self.kmeans_iterations = kmeans_iterations
        self.dead_code_threshold = dead_code_threshold
        self.energy_exponent = energy_exponent
        self.estimator = estimator
        self.beams = 1
        generator = torch.Generator().manual_seed(0)
        embed = torch.randn(num_codebooks, codebook_size, latent_dim, generator=generator)
        self.register_buffer("embed", embed)
        self.register_buffer("cluster_size", torch.ones(num_codebooks, codebook_size))
        self.register_buffer("embed_sum", embed.clone())
        self.register_buffer("is_initialized", torch.tensor(False))
        self.register_buffer("updates", torch.tensor(0))
        self._initialized = False  # equal to the buffer, but no read of the device

    @property
    def latent_dim(self) -> int:
        """Width D of the latent."""
        return self.embed.shape[2]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each codebook."""
        return (self.embed.shape[1],) * self.embed.shape[0]

    @property
    def initialized(self) -> bool:
        """Whether `initialize` has run."""
        return self._initialized

    def _set_initialized(self, initialized: bool) -> None:
        self.is_initialized.fill_(initialized)
        self._initialized = initialized

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._initialized = bool(self.is_initialized)

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make a quantizer of the same architecture."""
        num_codebooks, codebook_size, latent_dim = self.embed.shape
        return {"latent_dim": latent_dim, "num_codebooks": num_codebooks, "codebook_size": codebook_size}

    def inference_state(self) -> dict[str, Tensor]:
        """The codes, and whether they were initialized."""
        return {"embed": self.embed, "is_initialized": self.is_initialized}

    @torch.no_grad()
    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `inference_state`. In the moving averages every code counts as one vector, its own value.

        Raises:
            ValueError: Names or shapes differ.
        """
        check_state(self.inference_state(), state)
        self.embed.copy_(state["embed"])
        self._set_initialized(bool(state["is_initialized"]))
        self.embed_sum.copy_(self.embed)
        self.cluster_size.fill_(1)
        self.updates.zero_()

    def forward(self, latent: Tensor, num_codebooks: int | None = None) -> QuantizerOutput:
        """Quantizes with the first `num_codebooks` codebooks, all if None.

        Every codebook has its own commitment term with a gradient to the latent: codebook k quantizes the latent minus
        the *detached* codes before it. (encodec subtracts the straight-through value, whose gradient cancels the
        latent's, so that only its first codebook commits: encodec issue 25.)

        Shape: latent [B, D, F] -> QuantizerOutput.
        """
        batch = latent.shape[0]
        x = rearrange(latent, "b d f -> (b f) d").float()
        residuals, codes, embeds = [x.detach()], [], self.embed[:num_codebooks]
        for embed, squares in zip(embeds, embeds.square().sum(2), strict=True):
            codes.append(nearest(residuals[-1], embed, squares))
            residuals.append(residuals[-1] - F.embedding(codes[-1], embed))
        stacked = torch.stack(residuals)
        # Straight-through estimator: the value is x minus the last residual, the gradient that of x.
        quantized = x - residuals[-1]
        if self.estimator is not None:
            quantized = self.estimator(x, quantized.detach())
        return QuantizerOutput(
            rearrange(quantized, "(b f) d -> b d f", b=batch),
            rearrange(torch.stack(codes), "k (b f) -> b k f", b=batch),
            _Commitment.apply(x, stacked[1:]),
            stacked[:-1],
        )

    def encode(self, latent: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Codes without gradients. The codes of a latent do not depend on the rest of the batch.

        Shape: latent [B, D, F] -> codes [B, K, F] int64.
        """
        return self.search(num_codebooks)(latent)

    def search(self, num_codebooks: int | None = None) -> NearestSearch | BeamSearch:
        """`encode` with the first `num_codebooks` codebooks as they are now, prepared for many calls."""
        embed = self.embed[:num_codebooks]
        return NearestSearch(embed) if self.beams == 1 else BeamSearch(embed, self.beams)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the codes of the first K codebooks.

        Shape: codes [B, K, F] -> latent [B, D, F].

        Raises:
            ValueError: The codes are of more codebooks than there are.
        """
        count = codes.shape[1]
        if count > len(self.embed):
            raise ValueError(f"expected codes of at most {len(self.embed)} codebooks, got {count}")
        vectors = [F.embedding(codes[:, k], self.embed[k]) for k in range(count)]
        return rearrange(torch.stack(vectors).sum(0), "b f d -> b d f")

    @torch.no_grad()
    def initialize(
        self, vectors: Tensor, seed: int = 0, num_batches: int = 1, advance: Callable[[], None] = lambda: None
    ) -> None:
        """Sets every codebook to the k-means centroids of the residuals of the codebooks before it.

        `embed_sum` becomes centroid times count. (encodec and audiocraft store the bare centroid beside the count, so
        their first update divides every code by its count.) With fewer than four vectors per code the remaining codes
        are left dead, for `update` to replace from later batches, and so is a centroid of one vector: centroids that
        reproduce single vectors would leave no residual for the codebooks after this one.

        Args:
            vectors: Latents of training audio.
            seed: Seed of the first centroids.
            num_batches: Number of training batches that the vectors come from. The counts are divided by it, so that
                k-means weighs in the moving averages as much as one batch.
            advance: Called after each codebook.

        Shape: vectors [N, D].
        """
        residual = vectors.float()
        size = self.embed.shape[1]
        clusters = max(1, min(size, len(residual) // 4))
        generator = torch.Generator().manual_seed(seed)
        energy = residual.square().sum(1)
        relative = energy / energy.mean().clamp_min(torch.finfo(energy.dtype).tiny)  # silence has a mean of 0
        weights = (relative + _ENERGY_FLOOR) ** -self.energy_exponent
        for k in range(len(self.embed)):
            centroids, counts, index = kmeans(residual, clusters, self.kmeans_iterations, generator, weights)
            if (counts == 1).any() and (counts > 1).any():
                centroids = centroids[counts > 1]
                index = nearest(residual, centroids)
                counts = count(index, len(centroids)).to(counts.dtype)
            # Copies of live codes fill the codebook. The lower index wins a tie, so copies are never chosen.
            self.embed[k] = centroids[torch.arange(size, device=centroids.device) % len(centroids)]
            self.cluster_size[k] = F.pad(counts, (0, size - len(centroids))) / num_batches
            residual = residual - centroids[index]
            advance()
        self.embed_sum.copy_(self.embed * self.cluster_size[..., None])
        self._set_initialized(True)

    def reset(self) -> None:
        """Makes `initialized` false; the codes stay until `initialize` is called again."""
        self._set_initialized(False)

    @torch.no_grad()
    def update(self, output: QuantizerOutput) -> None:
        """One moving-average step of the codebooks in `output`, then replaces their dead codes.

        All processes take the step together. Sums are over all of them, so the codebooks stay equal.
        """
        residuals = output.residuals
        k, n, dim = residuals.shape
        size = self.embed.shape[1]
        flat = flat_codes(output.codes, size)
        total = residuals.new_zeros(k * size * (1 + dim))
        counts, sums = total[: k * size], total[k * size :].view(k * size, dim)
        counts.index_add_(0, flat, torch.ones((), device=total.device).expand(len(flat)))
        sums.index_add_(0, flat, residuals.reshape(k * n, dim))
        all_reduce(total)
        averages, values = [self.cluster_size[:k], self.embed_sum[:k]], [counts.view(k, size), sums.view(k, size, dim)]
        torch._foreach_lerp_(averages, values, 1 - self.decay)
        self._replace_dead_codes(residuals)
        # A code that was never used keeps its value, since both averages decay alike. The condition guards 0 / 0.
        used = self.cluster_size[:k, :, None]
        embed = self.embed[:k]
        torch.where(used > 1e-12, self.embed_sum[:k] / used, embed, out=embed)
        self.updates += 1

    def _replace_dead_codes(self, residuals: Tensor) -> None:
        """Moves dead codes to distinct vectors of the batch; all three averages change together.

        A replaced code gets the usage of an average one. So it has ln(1 / dead_code_threshold) / (1 - decay) updates
        until it can count as dead again.

        Shape: residuals [K, N, D].
        """
        k, n, _ = residuals.shape
        cluster_size, embed_sum = self.cluster_size[:k], self.embed_sum[:k]
        average = cluster_size.mean(1, keepdim=True)
        dead = self._dead_codes(cluster_size, average)
        if dead.device.type == "cpu" and not dead.any():  # on another device the question would cost more than the work
            return
        number = dead.cumsum(1)  # among the dead codes of a codebook, from 1
        dead = dead & (number <= n * world_size())
        vectors = replacement_vectors(residuals, number, self.updates)
        torch.where(dead, average, cluster_size, out=cluster_size)
        torch.where(dead[..., None], vectors * average[..., None], embed_sum, out=embed_sum)

    def _dead_codes(self, cluster_size: Tensor, average: Tensor) -> Tensor:
        """Shape: cluster_size [K, size], average [K, 1] -> [K, size] bool."""
        return cluster_size < self.dead_code_threshold * average

    def usage(self) -> CodebookUsage:
        """Perplexity, fraction of dead codes and entropy of every codebook, from the moving averages."""
        share = self.cluster_size / self.cluster_size.sum(1, keepdim=True).clamp_min(1e-12)
        dead = self._dead_codes(self.cluster_size, self.cluster_size.mean(1, keepdim=True))
        return usage_of(share, dead.float().mean(1))


class _Commitment(torch.autograd.Function):
    """Mean squared residual after each codebook, as a function of the latent: the codes are constants.

    Shape: x [N, D], residuals [K, N, D] -> [K].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, residuals: Tensor) -> Tensor:
        ctx.save_for_backward(residuals)
        return residuals.square().mean((1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (residuals,) = ctx.saved_tensors
        factors = gradient * (2 / residuals[0].numel())
        return torch.tensordot(factors.to(residuals.dtype), residuals, dims=1), None
