"""What a strategy may look at: loss values, and on demand the geometry of their gradients at the decoder output."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["SharedGradient", "SharedLayers", "Statistics", "largest_over_processes", "mean_over_processes"]

SharedLayers = Literal["last_layer", "all_shared"]

# Gradient at the output [B, C, T] -> gradient [P] of the parameters that all losses share: those of the last layer
# before the output, or all of them.
SharedGradient = Callable[[Tensor, SharedLayers], Tensor]


@dataclass
class Statistics:
    """The m losses that are active in this step; everything derived is computed once and only if asked for.

    Of W processes that share a batch each has the gradients of the losses over its own part. They are the whole batch's
    times W, as far as they go: a loss is a mean, and the part has 1/W of the elements. Lengths, inner products and loss
    values are those of the whole batch, the same in every process, and so is all that strategies make of them.

    Args:
        index: Position of each active loss among all M losses of the balancer, so that a strategy with memory
            can keep buffers [M] and address `buffer[index]`. Shape [m] int64.
        losses: Values over the whole batch, detached, float64. Shape [m].
        user_weights: The weights from the config, float64. Shape [m].
        gradients: d loss_i / d output, one row a loss, or None on steps on which nobody needs them.
            Shape [m, B, C, T] float32.
        shared_gradient: Takes gradients on to the parameters; None where the caller offers no way to them.
        elapsed: Steps that this one stands for: those since the strategy was last asked, this one included.
    """

    index: Tensor
    losses: Tensor
    user_weights: Tensor
    gradients: Tensor | None
    shared_gradient: SharedGradient | None = None
    elapsed: int = 1

    def remembered(self, decay: float) -> tuple[float, float]:
        """How a discounted sum over steps, sum = kept * sum + fresh * value, takes in this step's value.

        It stands for all `elapsed` steps, so that an average keeps its time constant whatever `refresh_every` is:
        kept is decay^elapsed and fresh 1 + decay + ... + decay^(elapsed - 1), which for one step are decay and 1.

        Args:
            decay: Of the sum per step, in [0, 1).
        """
        kept = decay**self.elapsed
        return kept, (1 - kept) / (1 - decay) if self.elapsed > 1 else 1.0

    @cached_property
    def jacobian(self) -> Tensor:
        """Gradients with all but the loss axis flattened. Shape: [m, B * C * T]."""
        if self.gradients is None:
            raise RuntimeError("a strategy that looks at gradients must set needs_gradients = True")
        return self.gradients.flatten(1)

    @property
    def batch_size(self) -> int:
        """Items B of the whole batch; 1 when there are no gradients to tell."""
        return 1 if self.gradients is None else self.gradients.shape[1] * _processes()

    def length(self, gradients: Tensor) -> Tensor:
        """Length over the whole batch. Shape: gradients [..., B * C * T] -> [...] float64."""
        length = torch.linalg.vector_norm(gradients, dim=-1, dtype=torch.float64)
        return length if _processes() == 1 else _total(length.square()).sqrt() / _processes()

    def item_length(self, gradients: Tensor) -> Tensor:
        """Length of each item, mean over the batch. Shape: gradients [..., B * C * T] -> [...] float64."""
        items = gradients.unflatten(-1, (self.batch_size // _processes(), -1))
        return mean_over_processes(torch.linalg.vector_norm(items, dim=-1, dtype=torch.float64).mean(-1)) / _processes()

    def product(self, gradients: Tensor, others: Tensor) -> Tensor:
        """Inner products. Shape: gradients [m, B * C * T], others [B * C * T, *] -> [m, *], in their dtype."""
        return _total(gradients @ others) / _processes() ** 2

    @cached_property
    def norms(self) -> Tensor:
        """Length of each gradient over the whole batch. Shape: [m] float64."""
        return self.length(self.jacobian)

    @cached_property
    def item_norms(self) -> Tensor:
        """Length of each gradient, taken per batch item and averaged. Shape: [m] float64."""
        return self.item_length(self.jacobian)

    @cached_property
    def cosines(self) -> Tensor:
        """Cosine of every pair of gradients; 0 between a zero gradient and another. Shape: [m, m] float64.

        Of rows scaled to unit length, and in float64: in a Gramian of the raw rows, whose squared lengths spread over
        many decades, the small ones would be lost to rounding, and TF32 or autocast would round the products.
        """
        unit = self.jacobian / self.norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        return self.product(unit, unit.t()).clamp(-1, 1).fill_diagonal_(1.0)

    @cached_property
    def gramian(self) -> Tensor:
        """Inner products of the gradients. Shape: [m, m] float64."""
        return self.norms[:, None] * self.cosines * self.norms

    def parameter_norms(self, layers: SharedLayers) -> Tensor:
        """Length of each loss's gradient at the shared parameters. Shape: -> [m] float64.

        Raises:
            ValueError: The balancer was given no way to them.
        """
        if self.gradients is None or self.shared_gradient is None:
            raise ValueError(f"norms at {layers} need a shared_gradient, and this step of the balancer was given none")
        lengths = [
            torch.linalg.vector_norm(mean_over_processes(self.shared_gradient(gradient, layers)), dtype=torch.float64)
            for gradient in self.gradients
        ]
        return torch.stack(lengths)

    def scaled(self, factors: Tensor) -> "Statistics":
        """The same step with loss i multiplied by `factors[i]`.

        Lengths, cosines and inner products follow by arithmetic on m numbers; the gradients themselves are
        scaled only if somebody then asks for `jacobian`.

        Shape: factors [m].
        """
        return _Scaled(
            self.index,
            self.losses * factors,
            self.user_weights,
            self.gradients,
            self.shared_gradient,
            self.elapsed,
            origin=self,
            factors=factors,
        )


@dataclass(kw_only=True)
class _Scaled(Statistics):
    origin: Statistics
    factors: Tensor

    @cached_property
    def jacobian(self) -> Tensor:
        return self.origin.jacobian * self.factors.to(self.origin.jacobian.dtype)[:, None]

    @cached_property
    def norms(self) -> Tensor:
        return self.origin.norms * self.factors.abs()

    @cached_property
    def item_norms(self) -> Tensor:
        return self.origin.item_norms * self.factors.abs()

    @cached_property
    def cosines(self) -> Tensor:
        sign = self.factors.sign()
        return sign[:, None] * self.origin.cosines * sign

    def parameter_norms(self, layers: SharedLayers) -> Tensor:
        return self.origin.parameter_norms(layers) * self.factors.abs()


def mean_over_processes(values: Tensor) -> Tensor:
    """Shape: [*] -> [*]."""
    return _total(values) / _processes() if _processes() > 1 else values


def largest_over_processes(values: Tensor) -> Tensor:
    """Shape: [*] -> [*]; of values without NaN."""
    if _processes() > 1:
        values = values.clone()
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def _total(values: Tensor) -> Tensor:
    """Sum over processes. Shape: [*] -> [*]."""
    if _processes() > 1:
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values)
    return values


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
