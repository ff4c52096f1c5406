"""A transformer that predicts codes, as it is trained: in floats.

EnCodec (Défossez et al. 2022, section 3.3) predicts all books of a frame at once from the frames before. Here book k
also sees the books before it in its own frame, which a residual quantizer makes its best witnesses:

    x_t      = sum_j past_j[c_{t-1,j}]                             nothing at a sync point
    h_t      = causal transformer over x_t, x_{t-1}, ...           within `context_frames` and the last sync point
    u_{t,k}  = h_t + book_k + sum_{j<k} present_j[c_{t,j}]
    logits   = head_k(norm(u + mlp(norm(u)))) + bias_k

Norms are root mean square without gain, activations ReLU, and places are told by a learnt bias for each distance and
head: what `codec.bitstream.entropy.integer_network` computes in whole numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CodeTransformer", "EntropyConfig", "Layer", "Perceptron"]


@dataclass(frozen=True)
class EntropyConfig:
    """Size of the network.

    Args:
        codebooks, codebook_size: Of the codec.
        context_frames: How far a frame looks back, itself included.
        dim: Width of the residual stream.
        layers: Of the transformer over frames.
        heads: Of each attention.
        hidden: Width inside the perceptrons.

    Raises:
        ValueError: A value is out of range, or the sums of the integer network would leave their bound.
    """

    codebooks: int
    codebook_size: int
    context_frames: int
    dim: int = 128
    layers: int = 3
    heads: int = 4
    hidden: int = 384

    def __post_init__(self) -> None:
        limits = {"codebooks": 1 << 10, "codebook_size": 1 << 16, "context_frames": 1 << 13, "dim": 1 << 10,
                  "layers": 64, "heads": 64, "hidden": 1 << 13}  # fmt: skip
        for name, limit in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
                raise ValueError(f"{name} must be a whole number from 1 to {limit}, got {str(value)[:40]!r}")
        if self.dim % self.heads or self.dim // self.heads > 64:
            raise ValueError(f"dim {self.dim} must be a multiple of heads, {self.heads}, and at most 64 times it")

    def to_dict(self) -> dict[str, int]:
        """Plain numbers, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; raises `TypeError` for keys that are no field, `ValueError` for bad values."""
        return cls(**values)


class CodeTransformer(nn.Module):
    """See the head of this module.

    Args:
        config: Its size.
        codebooks: The codec's [K, size, D], or None. Tables start as random projections of them, so that codes which
            sound alike start alike.
    """

    def __init__(self, config: EntropyConfig, codebooks: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        k, size, dim = config.codebooks, config.codebook_size, config.dim
        self.past = nn.Parameter(_table(codebooks, (k, size, dim)))
        self.present = nn.Parameter(_table(codebooks, (k, size, dim)))
        self.head = nn.Parameter(0.3 * _table(codebooks, (k, size, dim)))
        self.bias = nn.Parameter(torch.zeros(k, size))
        self.book = nn.Parameter(torch.zeros(k, dim))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.mlp = Perceptron(config)

    def forward(self, codes: Tensor) -> Tensor:
        """What is expected of every frame of a stretch that starts with a sync point, before it is seen.

        Shape: codes [B, n, F] of the first n books -> hidden [B, F, dim].
        """
        frames = codes.shape[-1]
        # Embeddings rather than indexing, whose gradient is summed in the order in which threads come.
        past = torch.stack([F.embedding(book, self.past[j]) for j, book in enumerate(codes[..., :-1].unbind(1))]).sum(0)
        x = F.pad(past, (0, 0, 1, 0))
        distance = torch.arange(frames, device=codes.device)[:, None] - torch.arange(frames, device=codes.device)
        for layer in self.layers:
            x = layer(x, distance)
        return x

    def logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Natural logarithms, up to a constant, of the probability of each code of each book.

        Shape: hidden [N, dim], codes [N, n] -> [N, n, size].
        """
        books = codes.shape[1]
        present = torch.stack([F.embedding(book, self.present[j]) for j, book in enumerate(codes.unbind(1))], 1)
        below = F.pad(present[:, :-1].cumsum(1), (0, 0, 1, 0))
        u = hidden[:, None] + self.book[:books] + below
        u = norm(u + self.mlp(u))
        return torch.einsum("nkd,ksd->nks", u, self.head[:books]) + self.bias[:books]


class Layer(nn.Module):
    """Attention to frames before and a perceptron, each added to what it is given."""

    def __init__(self, config: EntropyConfig) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        nn.init.zeros_(self.out.weight)
        # Starts as ALiBi (Press et al. 2022): each head forgets at a rate of its own.
        slopes = 2.0 ** -(1 + 7 * torch.arange(config.heads) / max(1, config.heads - 1))
        self.distance = nn.Parameter(-slopes[:, None] * torch.arange(config.context_frames))
        self.mlp = Perceptron(config)

    def forward(self, x: Tensor, distance: Tensor) -> Tensor:
        """Shape: x [B, F, dim], distance [F, F] of each frame from each -> [B, F, dim]."""
        batch, frames, dim = x.shape
        q, k, v = self.qkv(norm(x)).view(batch, frames, 3, self.config.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(dim // self.config.heads)
        hidden = (distance < 0) | (distance >= self.config.context_frames)
        bias = F.embedding(distance.clamp(0, self.config.context_frames - 1), self.distance.t()).permute(2, 0, 1)
        attention = (scores + bias).masked_fill(hidden, -math.inf).softmax(-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(batch, frames, dim))
        mixed: Tensor = x + self.mlp(x)
        return mixed


class Perceptron(nn.Module):
    """One hidden layer."""

    def __init__(self, config: EntropyConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.dim, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., dim] -> [..., dim]."""
        hidden: Tensor = self.down(F.relu(self.up(norm(x))))
        return hidden


def norm(x: Tensor) -> Tensor:
    """Divided by the root mean square of the last dimension."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def _table(codebooks: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    """Entries of length 1 as a rule."""
    dim = shape[-1]
    if codebooks is None:
        return torch.randn(shape) / math.sqrt(dim)
    projected = (codebooks - codebooks.mean(1, keepdim=True)) @ torch.randn(codebooks.shape[-1], dim)
    return projected / projected.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-9) / math.sqrt(dim)
