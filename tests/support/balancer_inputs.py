"""Losses with known gradients, and an independent implementation of EnCodec's balancer."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from balancer import Balancer, EmaNorm, Fixed, Keep, Static, Statistics, Sum

__all__ = [
    "MinimumNorm",
    "ReferenceBalancer",
    "encodec",
    "fixed_sum",
    "leaf",
    "linear",
    "noise",
    "pair",
    "weighted_sum",
]


def leaf(*shape: int) -> Tensor:
    return torch.zeros(shape, requires_grad=True)


def linear(output: Tensor, gradients: Mapping[str, Tensor], value: float = 1.0) -> dict[str, Tensor]:
    """Losses of the given value (where the output is zero) whose gradients at `output` are the given tensors."""
    return {name: (output * gradient.reshape(output.shape)).sum() + value for name, gradient in gradients.items()}


def noise(names: str, shape: tuple[int, ...], seed: int, spread: float = 1.0) -> dict[str, Tensor]:
    """Random gradients, one per letter. Their norms fall geometrically by the factor `spread` from first to last."""
    generator = torch.Generator().manual_seed(seed)
    steps = np.geomspace(1.0, 1.0 / spread, len(names))
    return {name: torch.randn(shape, generator=generator) * step for name, step in zip(names, steps, strict=True)}


def pair(a: list[float], b: list[float]) -> dict[str, Tensor]:
    """Gradients of two losses a and b, of shape [1, 1, T]."""
    return {"a": torch.tensor([[a]]), "b": torch.tensor([[b]])}


def encodec(weights: Mapping[str, float], monitor_every: int = 0, **settings: object) -> Balancer:
    return Balancer(weights, EmaNorm(**settings), Sum(), Keep(), monitor_every)  # type: ignore[arg-type]


def weighted_sum(weights: Mapping[str, float], monitor_every: int = 0) -> Balancer:
    return Balancer(weights, Static(), Sum(), Keep(), monitor_every)


def fixed_sum(weights: Mapping[str, float], norm: float) -> Balancer:
    return Balancer(weights, Static(), Sum(), Fixed(norm), monitor_every=0)


class ReferenceBalancer:
    """AudioCraft's balancer in float64 NumPy: gradients in, gradient out."""

    def __init__(self, weights: Mapping[str, float], decay: float, total_norm: float, per_item: bool) -> None:
        self.weights, self.decay, self.total_norm, self.per_item = weights, decay, total_norm, per_item
        self.total = dict.fromkeys(weights, 0.0)
        self.fix = dict.fromkeys(weights, 0.0)

    def __call__(self, gradients: Mapping[str, Tensor]) -> np.ndarray:
        arrays = {name: gradient.double().numpy() for name, gradient in gradients.items()}
        combined = np.zeros_like(next(iter(arrays.values())))
        for name, array in arrays.items():
            items = array.reshape(len(array) if self.per_item else 1, -1)
            norm = np.mean([np.sqrt(np.sum(item**2)) for item in items])
            self.total[name] = self.decay * self.total[name] + norm
            self.fix[name] = self.decay * self.fix[name] + 1.0
            share = self.weights[name] / sum(self.weights[present] for present in arrays)
            combined += share * self.total_norm / (1e-12 + self.total[name] / self.fix[name]) * array
        return combined


class MinimumNorm:
    """MGDA for two losses: the shortest point of the segment between the gradients."""

    needs_gradients = True

    def prepare(self, weights: Mapping[str, float]) -> None:
        if len(set(weights.values())) > 1:
            raise ValueError("MinimumNorm does not support weights")

    def __call__(self, statistics: Statistics) -> Tensor:
        gramian = statistics.gramian
        first = ((gramian[1, 1] - gramian[0, 1]) / (gramian[0, 0] + gramian[1, 1] - 2 * gramian[0, 1])).clamp(0, 1)
        return torch.stack([first, 1 - first])
