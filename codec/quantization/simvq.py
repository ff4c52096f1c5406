"""SimVQ (Zhu et al. 2024): residual codebooks whose codes are a learned linear map of fixed random vectors.

A gradient at one code moves the map, and so all codes. Codes that no latent uses follow the others and are not dead.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from codec.quantization.beam_search import BeamSearch
from codec.quantization.code_counts import CodeCounts
from codec.quantization.estimators import straight_through
from codec.quantization.kmeans import nearest
from codec.quantization.nearest import NearestSearch
from codec.quantization.quantizer import CodebookUsage, QuantizerOutput
from codec.quantization.weights import inference_weights, load_inference_weights
from codec.ranges import CodebookCount, CodebookSize, NonNegativeFloat, Size, check_ranges

__all__ = ["SimVQ"]


class SimVQ(nn.Module):
    """K codebooks, each quantizing the residual of the codebooks before it.

    The commitment of codebook k is |r - sg(q)|^2 + `codebook_weight` |sg(r) - q|^2, both means, with the residual r
    and its code q. Codes before a residual count as constants in it, as in `ResidualVectorQuantizer`.

    Buffers:
        fixed [K, size, D]: the random vectors, normal with variance 1 / D.

    Attributes:
        maps: [K, D, D]; the codes of codebook k are fixed[k] @ maps[k]. They begin as the identity.
        beams: As in `ResidualVectorQuantizer`.

    Args:
        latent_dim: Width D of the latent.
        num_codebooks: Number K of codebooks.
        codebook_size: Codes per codebook, any number of at least 2.
        codebook_weight: See above. The paper's weights of 1 and 0.25 are 4, with
            `trainer.codebooks.commitment_weight=0.25`.
        estimator: Gradient of the quantized latent to the latent: `straight_through` or `rotation`.

    Raises:
        ValueError: A value is out of range; the message names it and the range.
    """

    fixed: Tensor

    def __init__(
        self,
        *,
        latent_dim: Size = 128,
        num_codebooks: CodebookCount = 8,
        codebook_size: CodebookSize = 1024,
        codebook_weight: NonNegativeFloat = 4.0,
        estimator: Callable[[Tensor, Tensor], Tensor] = straight_through,
    ) -> None:
        super().__init__()
        check_ranges(SimVQ.__init__, locals())
        self.codebook_weight, self.estimator, self.beams = codebook_weight, estimator, 1
        self.register_buffer("fixed", torch.randn(num_codebooks, codebook_size, latent_dim) * latent_dim**-0.5)
        self.maps = nn.Parameter(torch.eye(latent_dim).repeat(num_codebooks, 1, 1))
        self.counts = CodeCounts(self.codebook_sizes)

    @property
    def latent_dim(self) -> int:
        """Width D of the latent."""
        return self.fixed.shape[2]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each codebook."""
        return (self.fixed.shape[1],) * self.fixed.shape[0]

    @property
    def initialized(self) -> bool:
        """True: the codes begin at random and are learned from the first step."""
        return True

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make a quantizer of the same architecture."""
        num_codebooks, codebook_size, latent_dim = self.fixed.shape
        return {"latent_dim": latent_dim, "num_codebooks": num_codebooks, "codebook_size": codebook_size}

    def vectors(self, num_codebooks: int | None = None) -> Tensor:
        """The codes of the first `num_codebooks` codebooks, all if None. Shape: -> [K, size, D]."""
        with torch.autocast(self.fixed.device.type, enabled=False):
            return self.fixed[:num_codebooks] @ self.maps[:num_codebooks]

    def forward(self, latent: Tensor, num_codebooks: int | None = None) -> QuantizerOutput:
        """Quantizes with the first `num_codebooks` codebooks, all if None.

        Shape: latent [B, D, F] -> QuantizerOutput.
        """
        x = rearrange(latent, "b d f -> (b f) d").float()
        residual, codes, commitments = x, [], []
        with torch.autocast(latent.device.type, enabled=False):  # bfloat16 cannot tell nearby codes apart
            for embed in self.vectors(num_codebooks):
                index = nearest(residual.detach(), embed.detach())
                code = F.embedding(index, embed)
                commitment = F.mse_loss(residual, code.detach())
                commitments.append(commitment + self.codebook_weight * F.mse_loss(code, residual.detach()))
                residual = residual - code.detach()
                codes.append(index)
            quantized = self.estimator(x, (x - residual).detach())
        return QuantizerOutput(
            rearrange(quantized, "(b f) d -> b d f", b=len(latent)),
            rearrange(torch.stack(codes), "k (b f) -> b k f", b=len(latent)),
            torch.stack(commitments),
            latent.new_zeros(0),
        )

    def encode(self, latent: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Codes without gradients. Shape: latent [B, D, F] -> codes [B, K, F] int64."""
        return self.search(num_codebooks)(latent)

    @torch.no_grad()
    def search(self, num_codebooks: int | None = None) -> NearestSearch | BeamSearch:
        """`encode` with the codebooks as they are now, prepared for many calls."""
        embed = self.vectors(num_codebooks)
        return NearestSearch(embed) if self.beams == 1 else BeamSearch(embed, self.beams)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the codes. Shape: codes [B, K, F] of the first K codebooks -> latent [B, D, F]."""
        count = codes.shape[1]
        if count > len(self.fixed):
            raise ValueError(f"expected codes of at most {len(self.fixed)} codebooks, got {count}")
        vectors = [F.embedding(codes[:, k], self.fixed[k]) @ self.maps[k] for k in range(count)]
        return rearrange(torch.stack(vectors).sum(0), "b f d -> b d f")

    def initialize(
        self, vectors: Tensor, seed: int = 0, num_batches: int = 1, advance: Callable[[], None] = lambda: None
    ) -> None:
        """Does nothing: see `initialized`. Shape: vectors [N, D]."""

    def reset(self) -> None:
        """Does nothing: see `initialized`."""

    def update(self, output: QuantizerOutput) -> None:
        """Counts the codes of a batch."""
        self.counts.update(output.codes)

    def usage(self) -> CodebookUsage:
        """How evenly each codebook uses its codes."""
        return self.counts.usage()

    def inference_state(self) -> dict[str, Tensor]:
        """The fixed vectors and the maps."""
        return inference_weights(self)

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `inference_state`.

        Raises:
            ValueError: Names or shapes differ.
        """
        load_inference_weights(self, state)
