"""Residual quantizer with factorized, l2-normalised codes that are learned by gradient (DAC, Kumar et al. 2023).

Every codebook maps the residual to a few dimensions, searches there by cosine similarity, and maps the code back.
After Yu et al. 2022 (ViT-VQGAN). Few dimensions keep all codes in use without k-means and without replacing codes.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from codec.quantization.code_counts import CodeCounts
from codec.quantization.estimators import straight_through
from codec.quantization.quantizer import CodebookUsage, QuantizerOutput
from codec.quantization.weights import inference_weights, load_inference_weights
from codec.ranges import CodebookCount, CodebookSize, NonNegativeFloat, Size, check_ranges

__all__ = ["FactorizedCodebook", "FactorizedQuantizer"]


class FactorizedCodebook(nn.Module):
    """One codebook: a map to `codebook_dim` dimensions, codes, and a map back.

    Attributes:
        to_code, from_code: Linear maps; in DAC they have weight normalization.
        codes: [size, codebook_dim].
    """

    def __init__(self, latent_dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.to_code, self.from_code = nn.Linear(latent_dim, codebook_dim), nn.Linear(codebook_dim, latent_dim)
        for each in (self.to_code, self.from_code):
            nn.init.zeros_(each.bias)  # as in DAC
        self.codes = nn.Parameter(torch.randn(codebook_size, codebook_dim))

    def nearest(self, projected: Tensor) -> Tensor:
        """Codes of the largest cosine similarity, of equal ones the first. Shape: [N, codebook_dim] -> [N] int64."""
        return F.linear(projected, F.normalize(self.codes)).argmax(1)

    def decode(self, codes: Tensor) -> Tensor:
        """What the codes add to the quantized latent. Shape: codes [*] -> [*, D]."""
        vectors: Tensor = self.from_code(F.embedding(codes, self.codes))
        return vectors


class FactorizedQuantizer(nn.Module):
    """K codebooks as in DAC, each quantizing what the codebooks before it left.

    The commitment of codebook k is |e - sg(q)|^2 + `codebook_weight` |sg(e) - q|^2, both means, with the projected
    residual e and its code q. The gradient of the residual passes through the earlier codebooks, as in DAC.

    Args:
        latent_dim: Width D of the latent.
        num_codebooks: Number K of codebooks.
        codebook_size: Codes per codebook, any number of at least 2.
        codebook_dim: Dimensions in which codes are searched.
        codebook_weight: Weight of the loss that moves the codes to the residuals, relative to the commitment. DAC's
            weights of 1 and 0.25 are `codebook_weight=4` with `trainer.codebooks.commitment_weight=0.25` and
            `commitment_reduction=sum`.
        estimator: Gradient of a code to its projected residual: `straight_through` or `rotation`.

    Attributes:
        beams: 1: the search is greedy.

    Raises:
        ValueError: A value is out of range; the message names it and the range.
    """

    def __init__(
        self,
        *,
        latent_dim: Size = 128,
        num_codebooks: CodebookCount = 9,
        codebook_size: CodebookSize = 1024,
        codebook_dim: Size = 8,
        codebook_weight: NonNegativeFloat = 4.0,
        estimator: Callable[[Tensor, Tensor], Tensor] = straight_through,
    ) -> None:
        super().__init__()
        check_ranges(FactorizedQuantizer.__init__, locals())
        self.latent_dim, self.beams = latent_dim, 1
        self.codebook_weight, self.estimator = codebook_weight, estimator
        self.codebooks = nn.ModuleList(
            FactorizedCodebook(latent_dim, codebook_size, codebook_dim) for _ in range(num_codebooks)
        )
        self.counts = CodeCounts(self.codebook_sizes)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each codebook."""
        return tuple(len(codebook.codes) for codebook in self)

    @property
    def initialized(self) -> bool:
        """True: the codes begin at random and are learned from the first step."""
        return True

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make a quantizer of the same architecture."""
        size, dim = next(iter(self)).codes.shape
        return {"latent_dim": self.latent_dim, "num_codebooks": len(self.codebooks), "codebook_size": size,
                "codebook_dim": dim}  # fmt: skip

    def __iter__(self) -> Iterator[FactorizedCodebook]:
        """The codebooks in order."""
        return (cast(FactorizedCodebook, codebook) for codebook in self.codebooks)

    def forward(self, latent: Tensor, num_codebooks: int | None = None) -> QuantizerOutput:
        """Quantizes with the first `num_codebooks` codebooks, all if None. Shape: latent [B, D, F] -> QuantizerOutput.

        Codebooks that are not used get a gradient of zero: DistributedDataParallel waits for every parameter.
        """
        x = rearrange(latent, "b d f -> (b f) d").float()
        residual, codes, commitments = x, [], []
        count = num_codebooks or len(self.codebooks)
        with torch.autocast(latent.device.type, enabled=False):  # bfloat16 cannot tell nearby codes apart
            for codebook in islice(self, count):
                projected = codebook.to_code(residual)
                index = codebook.nearest(projected.detach())
                code = F.embedding(index, codebook.codes)
                commitment = F.mse_loss(projected, code.detach())
                commitments.append(commitment + self.codebook_weight * F.mse_loss(code, projected.detach()))
                residual = residual - codebook.from_code(self.estimator(projected, code.detach()))
                codes.append(index)
        unused = [p.sum() for codebook in islice(self, count, None) for p in codebook.parameters()]
        per_codebook = torch.stack(commitments) + 0 * sum(unused)
        return QuantizerOutput(
            rearrange(x - residual, "(b f) d -> b d f", b=len(latent)),
            rearrange(torch.stack(codes), "k (b f) -> b k f", b=len(latent)),
            per_codebook,
            latent.new_zeros(0),
        )

    def encode(self, latent: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Codes without gradients. Shape: latent [B, D, F] -> codes [B, K, F] int64."""
        return self.search(num_codebooks)(latent)

    def search(self, num_codebooks: int | None = None) -> Callable[[Tensor], Tensor]:
        """`encode` with the codebooks as they are now, prepared for many calls."""
        return _Search(list(islice(self, num_codebooks)))

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the codes' vectors. Shape: codes [B, K, F] of the first K codebooks -> latent [B, D, F]."""
        if codes.shape[1] > len(self.codebooks):
            raise ValueError(f"expected codes of at most {len(self.codebooks)} codebooks, got {codes.shape[1]}")
        vectors = [codebook.decode(codes[:, k]) for k, codebook in enumerate(islice(self, codes.shape[1]))]
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
        """All weights."""
        return inference_weights(self)

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `inference_state`.

        Raises:
            ValueError: Names or shapes differ.
        """
        load_inference_weights(self, state)


class _Search:
    """In float64, so that the number of vectors searched at once decides no more than exact ties."""

    def __init__(self, codebooks: list[FactorizedCodebook]) -> None:
        with torch.no_grad():
            self.maps = [(c.to_code.weight.double(), c.to_code.bias.double()) for c in codebooks]
            self.directions = [F.normalize(c.codes.double()) for c in codebooks]
            self.vectors = [F.linear(c.codes.double(), c.from_code.weight.double(), c.from_code.bias.double())
                            for c in codebooks]  # fmt: skip

    @torch.no_grad()
    def __call__(self, latent: Tensor) -> Tensor:
        residual = rearrange(latent, "b d f -> (b f) d").double()
        codes = []
        for (weight, bias), directions, vectors in zip(self.maps, self.directions, self.vectors, strict=True):
            codes.append(F.linear(F.linear(residual, weight, bias), directions).argmax(1))
            residual = residual - F.embedding(codes[-1], vectors)
        return rearrange(torch.stack(codes), "k (b f) -> b k f", b=len(latent))
