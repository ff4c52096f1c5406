"""The language model with which the encodec package compresses codes (Défossez et al. 2022, section 3.3).

The decoder needs exactly the probabilities of the encoder. So every step is the same torch operation as in the package,
on tensors of the same shape: one frame at a time, with the past inputs of each layer as context. With another number of
threads torch can still return other bits. Like the package, this module does not change the number of threads.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.config import CodecConfig

__all__ = ["EncodecLM", "LMState"]

_CONTEXT_SECONDS = 3.5
_PERIOD = 10_000
_DIM = 200
_LAYERS = 5
_HEADS = 8


class LMState(NamedTuple):
    """What a step needs of earlier steps."""

    past: list[Tensor]  # [1, H, dim] for each layer, H at most the context
    frame: int  # number of the next frame


class EncodecLM(nn.Module):
    """Predicts all codes of a frame from the codes of earlier frames.

    Its weights have the package's names. It runs on the CPU.

    Args:
        config: Of the codec.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.transformer = _Transformer(int(_CONTEXT_SECONDS * config.frame_rate_hz))
        self.emb = nn.ModuleList(nn.Embedding(config.codebook_size + 1, _DIM) for _ in range(config.num_codebooks))
        self.linears = nn.ModuleList(nn.Linear(_DIM, config.codebook_size) for _ in range(config.num_codebooks))

    @torch.no_grad()
    def forward(self, previous: Tensor | None, num_codebooks: int, state: LMState | None) -> tuple[Tensor, LMState]:
        """Returns the probabilities of the codes of the next frame, and the state for the next call.

        Args:
            previous: Codes of the previous frame; None for the first frame.
            num_codebooks: Number of codebooks in use.
            state: From the previous call; None for the first frame.

        Shape: previous [K] int64 -> [size, K].
        """
        # Index 0 stands for "no previous frame", so all codes are shifted by one.
        shape = (1, num_codebooks, 1)
        indices = torch.zeros(shape, dtype=torch.long) if previous is None else 1 + previous.cpu().view(shape)
        x = sum(self.emb[k](indices[:, k]) for k in range(num_codebooks))
        out, state = self.transformer(x, state)
        logits = torch.stack([self.linears[k](out) for k in range(num_codebooks)], dim=1).permute(0, 3, 1, 2)
        return torch.softmax(logits, dim=1)[0, :, :, 0], state


class _Transformer(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.context = context
        self.norm_in = nn.LayerNorm(_DIM)
        self.layers = nn.ModuleList(_Layer() for _ in range(_LAYERS))

    def forward(self, x: Tensor, state: LMState | None) -> tuple[Tensor, LMState]:
        if state is None:
            # As in the package, a frame of zeros precedes the first frame.
            state = LMState([torch.zeros_like(x)] * _LAYERS, 0)
        x = self.norm_in(x)
        x = x + _position_embedding(state.frame)
        past = []
        for layer, layer_past in zip(self.layers, state.past, strict=True):
            keys = torch.cat([layer_past, x], dim=1)
            past.append(keys[:, -self.context :, :])
            x = layer(x, keys)
        return x, LMState(past, state.frame + 1)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(_DIM, _HEADS, batch_first=True)
        self.linear1 = nn.Linear(_DIM, 4 * _DIM)
        self.linear2 = nn.Linear(4 * _DIM, _DIM)
        self.norm1 = nn.LayerNorm(_DIM)
        self.norm2 = nn.LayerNorm(_DIM)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        # The mask masks nothing. The package passes one, and the kernel that torch chooses may depend on it.
        mask = torch.zeros(1, keys.shape[1], dtype=torch.bool)
        attended = self.self_attn(x, keys, keys, attn_mask=mask, need_weights=False)[0]
        x = self.norm1(x + attended)
        y: Tensor = self.norm2(x + self.linear2(F.gelu(self.linear1(x))))
        return y


def _position_embedding(frame: int) -> Tensor:
    """Shape: -> [1, 1, dim]."""
    half = _DIM // 2
    steps = torch.arange(half).view(1, 1, -1)
    phase = (torch.zeros(1, 1, 1, dtype=torch.long) + frame) / (_PERIOD ** (steps / (half - 1)))
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)
