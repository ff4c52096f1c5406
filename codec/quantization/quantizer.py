"""What a codec, its training and its files need of a quantizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

__all__ = ["CodebookUsage", "Quantizer", "QuantizerOutput"]


class QuantizerOutput(NamedTuple):
    """Result of a forward pass through a quantizer."""

    latent: Tensor  # [B, D, F] quantized; its gradient passes straight through to the input
    codes: Tensor  # [B, K, F] int64
    commitment: Tensor  # [K] loss of each codebook: how far its input is from its code
    residuals: Tensor  # [K, N, D] input of each codebook, N = B * F; detached; only `update` reads it; may be empty


class CodebookUsage(NamedTuple):
    """How evenly each codebook uses its codes."""

    perplexity: Tensor  # [K] exp of the entropy: the number of codes in effective use
    dead_fraction: Tensor  # [K] fraction of codes below the dead-code threshold
    bits: Tensor  # [K] entropy in bits per code


class Quantizer(Protocol):
    """An `nn.Module` with these members. Its parameters, if it has any, are trained with those of encoder and decoder.

    A quantizer of your own is named by `codec.quantizer._target_`. Codes of the first k codebooks alone must decode,
    for every k, since a codec offers several bitrates.

    Attributes:
        latent_dim: Width D of the latent.
        codebook_sizes: Number of codes of each codebook, K numbers.
        beams: Partial sums that `encode` and `search` keep, if the quantizer has a beam search; 1 is greedy.
        initialized: Whether latents can be quantized; if not, `initialize` is called with latents of training audio.
    """

    beams: int

    @property
    def latent_dim(self) -> int: ...

    @property
    def codebook_sizes(self) -> Sequence[int]: ...

    @property
    def initialized(self) -> bool: ...

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make a quantizer of the same architecture: numbers, strings and lists of them."""

    def __call__(self, latent: Tensor, num_codebooks: int | None = None) -> QuantizerOutput:
        """Quantizes with the first `num_codebooks` codebooks, all if None, and changes no state.

        Shape: latent [B, D, F] -> QuantizerOutput.
        """

    def encode(self, latent: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Codes without gradients. The codes of a latent must not depend on the rest of the batch.

        Shape: latent [B, D, F] -> codes [B, K, F] int64.
        """

    def search(self, num_codebooks: int | None = None) -> Callable[[Tensor], Tensor]:
        """`encode` with the codebooks as they are now, prepared for many calls. A stream makes one and keeps it."""

    def decode(self, codes: Tensor) -> Tensor:
        """Shape: codes [B, K, F] of the first K codebooks -> latent [B, D, F]."""

    def initialize(
        self, vectors: Tensor, seed: int = 0, num_batches: int = 1, advance: Callable[[], None] = lambda: None
    ) -> None:
        """Sets the codebooks from latents of `num_batches` training batches, and calls `advance` after each codebook.

        Shape: vectors [N, D].
        """

    def reset(self) -> None:
        """Makes `initialized` false, so that `initialize` is called again."""

    def update(self, output: QuantizerOutput) -> None:
        """What is learned without gradients, after a step whose loss was finite. All processes call it together."""

    def usage(self) -> CodebookUsage:
        """How evenly each codebook uses its codes."""

    def inference_state(self) -> dict[str, Tensor]:
        """The part of the state dict that encoding and decoding need. Model files hold nothing else."""

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `inference_state`; the rest of the state, which only training needs, starts anew.

        Raises:
            ValueError: Names or shapes differ.
        """

    def parameters(self) -> Iterator[nn.Parameter]:
        """As in `nn.Module`; they are trained like those of the decoder."""

    def buffers(self) -> Iterator[Tensor]:
        """As in `nn.Module`; the first process sends them to the others after `initialize`."""
