"""The language model by which the encodec package compresses codes (Défossez et al. 2022, section 3.3).

The decoder must find the encoder's probabilities to the last bit, so every step here is the torch operation that the
package does, on tensors of the same shape: one frame at a time, with the inputs of each layer kept as context. Torch
run with another number of threads can still give other bits. That number is left as it is, as the package leaves it.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.config import CodecConfig
from codec.interop.weights import ForeignModelError, read_torch

__all__ = ["EncodecLM", "LMState", "read_encodec_lm"]

_CONTEXT_SECONDS = 3.5
_PERIOD = 10_000
_DIM = 200
_LAYERS = 5
_HEADS = 8


class LMState(NamedTuple):
    """What a step needs of those before it."""

    past: list[Tensor]  # [1, H, dim] for each layer, H at most the context
    frame: int  # number of the next frame


class EncodecLM(nn.Module):
    """Predicts the codes of a frame from those of the frames before it, all books at once.

    Its weights have the package's names. It stays on the CPU.

    Args:
        config: Of the codec whose codes these are.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.transformer = _Transformer(int(_CONTEXT_SECONDS * config.frame_rate_hz))
        self.emb = nn.ModuleList(nn.Embedding(config.codebook_size + 1, _DIM) for _ in range(config.codebooks))
        self.linears = nn.ModuleList(nn.Linear(_DIM, config.codebook_size) for _ in range(config.codebooks))

    @torch.no_grad()
    def forward(self, before: Tensor | None, books: int, state: LMState | None) -> tuple[Tensor, LMState]:
        """Probabilities of the codes of the next frame.

        Args:
            before: Codes of the frame before; None for the first.
            books: Number of them in use.
            state: From the call before; None for the first.

        Shape: before [K] int64 -> [size, K].
        """
        # 0 stands for the codes before the first frame, so all others are moved up by one.
        indices = torch.zeros(1, books, 1, dtype=torch.long) if before is None else 1 + before.cpu().view(1, books, 1)
        x = sum(self.emb[k](indices[:, k]) for k in range(books))
        out, state = self.transformer(x, state)
        logits = torch.stack([self.linears[k](out) for k in range(books)], dim=1).permute(0, 3, 1, 2)
        return torch.softmax(logits, dim=1)[0, :, :, 0], state


class _Transformer(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.context = context
        self.norm_in = nn.LayerNorm(_DIM)
        self.layers = nn.ModuleList(_Layer() for _ in range(_LAYERS))

    def forward(self, x: Tensor, state: LMState | None) -> tuple[Tensor, LMState]:
        if state is None:
            # Before the first frame lies one of zeros, as in the package.
            state = LMState([torch.zeros_like(x)] * _LAYERS, 0)
        x = self.norm_in(x)
        x = x + _position(state.frame)
        past = []
        for layer, before in zip(self.layers, state.past, strict=True):
            keys = torch.cat([before, x], dim=1)
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
        # Nothing is masked, since no key is too old. The package gives a mask all the same, and which kernel torch
        # takes may depend on there being one.
        nothing = torch.zeros(1, keys.shape[1], dtype=torch.bool)
        attended = self.self_attn(x, keys, keys, attn_mask=nothing, need_weights=False)[0]
        x = self.norm1(x + attended)
        y: Tensor = self.norm2(x + self.linear2(F.gelu(self.linear1(x))))
        return y


def _position(frame: int) -> Tensor:
    """Shape: -> [1, 1, dim]."""
    half = _DIM // 2
    steps = torch.arange(half).view(1, 1, -1)
    phase = (torch.zeros(1, 1, 1, dtype=torch.long) + frame) / (_PERIOD ** (steps / (half - 1)))
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


def read_encodec_lm(path: Path, config: CodecConfig) -> EncodecLM:
    """A state dict of the package's language model (.th), for the codes of a codec of this config.

    Raises:
        ForeignModelError: The file is missing or damaged, or the weights are not those of such a model; the message
            names one.
    """
    if not path.is_file():
        raise ForeignModelError(f"no language model at {path}")
    state = read_torch(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ForeignModelError(f"{path} is no language model: names with a tensor each are wanted")
    model = EncodecLM(config).eval()
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    got = {name: list(tensor.shape) for name, tensor in state.items()}
    for name in [*wanted, *got]:
        if wanted.get(name) != got.get(name):
            raise ForeignModelError(
                f"{path} is no language model for {config.codebooks} codebooks of {config.codebook_size} codes: {name} "
                f"should be {wanted.get(name, 'absent')}, is {got.get(name, 'missing')}"
            )
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise ForeignModelError(f"{path} is damaged: {name} holds a number that is not finite")
    model.load_state_dict(state)
    return model
