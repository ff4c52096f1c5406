"""A transformer that predicts codes, in floating point, for training.

EnCodec (Défossez et al. 2022, section 3.3) predicts all codes of a frame at once from the frames before. Here codebook
k also sees the codes of the codebooks before it in its own frame. In a residual quantizer these predict best:

    x_t      = sum_j past_j[c_{t-1,j}]                             0 at a random access point
    h_t      = causal transformer over x_t, x_{t-1}, ...           within `context_frames` and the random access point
    u_{t,k}  = h_t + codebook_k + sum_{j<k} present_j[c_{t,j}]
    logits   = head_k(norm(u + mlp(norm(u)))) + bias_k

Norms divide by the root mean square and have no gain. Activations are ReLU. Attention has a learned bias for each
distance and head. `codec.bitstream.entropy.integer_network` computes the same in integers.
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
        num_codebooks, codebook_size: Of the codec.
        context_frames: Frames that attention sees, the current one included.
        dim: Width of the residual stream.
        layers: Transformer layers over frames.
        heads: Attention heads of each layer.
        hidden: Width inside the perceptrons.

    Raises:
        ValueError: A value is out of range, or integer sums could exceed the bound of `integers`.
    """

    num_codebooks: int
    codebook_size: int
    context_frames: int
    dim: int = 128
    layers: int = 3
    heads: int = 4
    hidden: int = 384

    def __post_init__(self) -> None:
        limits = {"num_codebooks": 1 << 10, "codebook_size": 1 << 16, "context_frames": 1 << 13, "dim": 1 << 10,
                  "layers": 64, "heads": 64, "hidden": 1 << 13}  # fmt: skip
        for name, limit in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
                raise ValueError(f"{name} must be a whole number from 1 to {limit}, got {str(value)[:40]!r}")
        if self.dim % self.heads or self.dim // self.heads > 64:
            raise ValueError(
                f"dim must be a multiple of heads ({self.heads}) and at most {64 * self.heads}, got {self.dim}"
            )

    def to_dict(self) -> dict[str, int]:
        """Plain numbers, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises `TypeError` for unknown keys and `ValueError` for invalid values."""
        return cls(**values)


class CodeTransformer(nn.Module):
    """The network in the docstring of this module.

    Args:
        config: Its size.
        codebooks: Of the codec [K, size, D], or None. The tables start as random projections of them, so that similar
            codes start with similar entries.
    """

    def __init__(self, config: EntropyConfig, codebooks: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        k, size, dim = config.num_codebooks, config.codebook_size, config.dim
        self.past = nn.Parameter(_initial_table(codebooks, (k, size, dim)))
        self.present = nn.Parameter(_initial_table(codebooks, (k, size, dim)))
        self.head = nn.Parameter(0.3 * _initial_table(codebooks, (k, size, dim)))
        self.bias = nn.Parameter(torch.zeros(k, size))
        self.codebook = nn.Parameter(torch.zeros(k, dim))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.mlp = Perceptron(config)

    def forward(self, codes: Tensor) -> Tensor:
        """The hidden state of every frame, computed from the frames before. The first one is a random access point.

        Shape: codes [B, k, F] of the first k codebooks -> hidden [B, F, dim].
        """
        frames = codes.shape[-1]
        # F.embedding rather than indexing: the gradient of indexing depends on the order of threads.
        past = torch.stack([F.embedding(c, self.past[j]) for j, c in enumerate(codes[..., :-1].unbind(1))]).sum(0)
        x = F.pad(past, (0, 0, 1, 0))
        distance = torch.arange(frames, device=codes.device)[:, None] - torch.arange(frames, device=codes.device)
        for layer in self.layers:
            x = layer(x, distance)
        return x

    def logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Logits of every code. The prediction of a code uses the codes of earlier codebooks only.

        Shape: hidden [N, dim], codes [N, k] -> [N, k, size].
        """
        k = codes.shape[1]
        present = torch.stack([F.embedding(c, self.present[j]) for j, c in enumerate(codes.unbind(1))], 1)
        earlier = F.pad(present[:, :-1].cumsum(1), (0, 0, 1, 0))
        u = hidden[:, None] + self.codebook[:k] + earlier
        u = norm(u + self.mlp(u))
        return torch.einsum("nkd,ksd->nks", u, self.head[:k]) + self.bias[:k]


class Layer(nn.Module):
    """Causal self-attention and a perceptron, both residual."""

    def __init__(self, config: EntropyConfig) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        nn.init.zeros_(self.out.weight)
        # Starts as ALiBi (Press et al. 2022): the bias falls linearly with distance, with another slope in each head.
        slopes = 2.0 ** -(1 + 7 * torch.arange(config.heads) / max(1, config.heads - 1))
        self.distance = nn.Parameter(-slopes[:, None] * torch.arange(config.context_frames))
        self.mlp = Perceptron(config)

    def forward(self, x: Tensor, distance: Tensor) -> Tensor:
        """Shape: x [B, F, dim], distance [F, F] between frames -> [B, F, dim]."""
        batch, frames, dim = x.shape
        q, k, v = self.qkv(norm(x)).view(batch, frames, 3, self.config.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(dim // self.config.heads)
        masked = (distance < 0) | (distance >= self.config.context_frames)
        bias = F.embedding(distance.clamp(0, self.config.context_frames - 1), self.distance.t()).permute(2, 0, 1)
        attention = (scores + bias).masked_fill(masked, -math.inf).softmax(-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(batch, frames, dim))
        y: Tensor = x + self.mlp(x)
        return y


class Perceptron(nn.Module):
    """A perceptron with one hidden layer and a norm before it."""

    def __init__(self, config: EntropyConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.dim, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., dim] -> [..., dim]."""
        y: Tensor = self.down(F.relu(self.up(norm(x))))
        return y


def norm(x: Tensor) -> Tensor:
    """Divides by the root mean square of the last dimension."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def _initial_table(codebooks: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    """Shape: -> `shape`, with entries of a root mean square length of 1."""
    dim = shape[-1]
    if codebooks is None:
        return torch.randn(shape) / math.sqrt(dim)
    projected = (codebooks - codebooks.mean(1, keepdim=True)) @ torch.randn(codebooks.shape[-1], dim)
    return projected / projected.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-9) / math.sqrt(dim)
