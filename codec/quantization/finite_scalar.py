"""Finite scalar quantization (FSQ, Mentzer et al. 2023), with groups and residual codebooks.

A linear map takes the latent to a few dimensions per group. Each is bounded by tanh and rounded to one of L equally
spaced levels in [-1, 1], ends included (the symmetric form of Parker et al. 2024, arXiv 2411.19842). A code is the
number with the dimensions' levels as digits. There are no codes to learn, so none is dead.

The first codebooks quantize one group each (grouped FSQ, as in NeMo's audio codecs). The next ones round the rounding
errors of the groups on a grid that is L - 1 times as fine (residual FSQ).
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Annotated, Any

import torch
from annotated_types import MinLen
from torch import Tensor, nn
from torch.nn import functional as F

from codec.quantization.code_counts import CodeCounts
from codec.quantization.estimators import straight_through
from codec.quantization.quantizer import CodebookUsage, QuantizerOutput
from codec.quantization.weights import inference_weights, load_inference_weights
from codec.ranges import MAX_CODEBOOK_SIZE, CodebookCount, CodebookSize, Size, check_ranges

__all__ = ["FiniteScalarQuantizer"]


class FiniteScalarQuantizer(nn.Module):
    """FSQ with K codebooks in G groups; one codebook in one group is plain FSQ.

    Codebook k quantizes group k mod G. Groups without a code decode to 0.

    Buffers:
        steps [d]: L - 1 for each dimension, not saved.
        place [d]: value of each digit in a code, not saved. The first dimension is the last significant digit.

    Args:
        latent_dim: Width D of the latent.
        levels: Number L of levels of each dimension; 8, 5, 5, 5 make 1000 codes.
        num_groups: Number G of groups.
        num_codebooks: Number K of codebooks, a multiple of G.

    Attributes:
        beams: 1: there is nothing to search.

    Raises:
        ValueError: A value is out of range; the message names it and the range.
    """

    steps: Tensor
    place: Tensor

    def __init__(
        self,
        *,
        latent_dim: Size = 128,
        levels: Annotated[Sequence[CodebookSize], MinLen(1)] = (8, 5, 5, 5),
        num_groups: CodebookCount = 1,
        num_codebooks: CodebookCount = 1,
    ) -> None:
        super().__init__()
        check_ranges(FiniteScalarQuantizer.__init__, locals())
        if num_codebooks % num_groups:
            raise ValueError(f"num_codebooks must be a multiple of num_groups, {num_groups}, got {num_codebooks}")
        if prod(levels) > MAX_CODEBOOK_SIZE:
            raise ValueError(f"levels must make at most {MAX_CODEBOOK_SIZE} codes, got {prod(levels)}")
        self.latent_dim, self.beams = latent_dim, 1
        self.levels, self.num_groups, self.num_codebooks = tuple(levels), num_groups, num_codebooks
        dim = num_groups * len(levels)
        self.to_code, self.from_code = nn.Linear(latent_dim, dim), nn.Linear(dim, latent_dim)
        self.register_buffer("steps", torch.tensor(self.levels) - 1, persistent=False)
        place = torch.tensor([prod(self.levels[:i]) for i in range(len(levels))])
        self.register_buffer("place", place, persistent=False)
        self.counts = CodeCounts(self.codebook_sizes)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each codebook."""
        return (prod(self.levels),) * self.num_codebooks

    @property
    def initialized(self) -> bool:
        """True: there are no codes to place."""
        return True

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make a quantizer of the same architecture."""
        return {"latent_dim": self.latent_dim, "levels": list(self.levels), "num_groups": self.num_groups,
                "num_codebooks": self.num_codebooks}  # fmt: skip

    def forward(self, latent: Tensor, num_codebooks: int | None = None) -> QuantizerOutput:
        """Quantizes with the first `num_codebooks` codebooks, all if None.

        The gradient passes straight through the rounding of all codebooks together. The commitment has no gradient: it
        is the mean squared rounding error that each codebook leaves.

        Shape: latent [B, D, F] -> QuantizerOutput.
        """
        with torch.autocast(latent.device.type, enabled=False):  # bfloat16 has too few bits for fine grids
            bounded = self._bounded(latent.float(), self.to_code.weight, self.to_code.bias)
            codes, rounded, errors = self._round(bounded.detach(), num_codebooks or self.num_codebooks)
            quantized = self._unbounded(straight_through(bounded[:, :, : rounded.shape[2]], rounded))
        return QuantizerOutput(quantized, codes, errors, latent.new_zeros(0))

    def _bounded(self, latent: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Shape: latent [B, D, F] -> [B, F, G, d] in (-1, 1)."""
        return F.linear(latent.transpose(1, 2), weight, bias).tanh().unflatten(-1, (self.num_groups, -1))

    def _unbounded(self, values: Tensor) -> Tensor:
        """Shape: values [B, F, g, d] of the first g groups -> latent [B, D, F]."""
        padded = F.pad(values, (0, 0, 0, self.num_groups - values.shape[2]))
        latent: Tensor = self.from_code(padded.flatten(2))
        return latent.transpose(1, 2)

    def scale(self, k: int, like: Tensor) -> Tensor:
        """Half the range of codebook k. Shape: -> [d]."""
        return self.steps.to(like) ** -(k // self.num_groups)

    def _round(self, bounded: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Shape: bounded [B, F, G, d] -> codes [B, count, F], values [B, F, g, d], mean squared errors [count]."""
        errors = list(bounded.unbind(2))
        codes, squares = [], []
        for k in range(count):
            group, scale = k % self.num_groups, self.scale(k, bounded)
            digits = ((errors[group] / scale + 1) / 2 * self.steps).round()
            digits = torch.minimum(digits.clamp_min(0), self.steps)
            errors[group] = errors[group] - scale * (2 * digits / self.steps - 1)
            codes.append((digits.long() * self.place).sum(-1))
            squares.append(errors[group].square().mean())
        used = min(count, self.num_groups)
        return torch.stack(codes, 1), bounded[:, :, :used] - torch.stack(errors[:used], 2), torch.stack(squares)

    def encode(self, latent: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Codes without gradients. Shape: latent [B, D, F] -> codes [B, K, F] int64."""
        return self.search(num_codebooks)(latent)

    def search(self, num_codebooks: int | None = None) -> Callable[[Tensor], Tensor]:
        """`encode` with the weights as they are now. In float64: a batch of any size gives the same codes."""
        weight, bias = self.to_code.weight.detach().double(), self.to_code.bias.detach().double()
        count = num_codebooks or self.num_codebooks

        @torch.no_grad()
        def codes(latent: Tensor) -> Tensor:
            return self._round(self._bounded(latent.double(), weight, bias), count)[0]

        return codes

    def values(self, codes: Tensor, k: int) -> Tensor:
        """What codes of codebook k add to their group. Shape: codes [*] -> [*, d]."""
        digits = codes[..., None] // self.place % (self.steps + 1)
        return self.scale(k, self.from_code.weight) * (2 * digits / self.steps - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Shape: codes [B, K, F] of the first K codebooks -> latent [B, D, F].

        Raises:
            ValueError: The codes are of more codebooks than there are.
        """
        if codes.shape[1] > self.num_codebooks:
            raise ValueError(f"expected codes of at most {self.num_codebooks} codebooks, got {codes.shape[1]}")
        weight = self.from_code.weight
        groups = [weight.new_zeros(())] * min(codes.shape[1], self.num_groups)
        for k in range(codes.shape[1]):
            groups[k % self.num_groups] = groups[k % self.num_groups] + self.values(codes[:, k], k)
        return self._unbounded(torch.stack(groups, 2))

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
        """The two linear maps."""
        return inference_weights(self)

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `inference_state`.

        Raises:
            ValueError: Names or shapes differ.
        """
        load_inference_weights(self, state)
