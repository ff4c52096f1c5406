"""What a strategy can use in a step: loss values, and on demand norms and cosines of their gradients at the output.

The gradients are on the training device. All that has one value per loss is on the host, where the arithmetic of the
strategies takes place: on a GPU each of its operations would cost a kernel launch.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from balancer.processes import mean_over_processes, num_processes, sum_over_processes

__all__ = ["Measurement", "SharedGradient", "SharedLayers", "Statistics", "like"]

SharedLayers = Literal["last_layer", "all_shared"]

# Vector-Jacobian product: gradient at the output [B, C, T] -> gradient [P] at the parameters that all losses share,
# those of the last layer before the output or all of them.
SharedGradient = Callable[[Tensor, SharedLayers], Tensor]

# Computes values on the training device from the gradients in `Statistics`.
Measurement = Callable[["Statistics"], Tensor]


@dataclass
class Statistics:
    """The m losses that are active in a step. Derived values are computed once, and only on demand.

    In distributed training each of W processes has the gradients of its part of the batch. A loss is a mean, and a part
    has 1/W of the elements. The gradients of a part are therefore W times those of the whole batch, restricted to the
    part. Norms, inner products and loss values are those of the whole batch. They are equal in all processes, and so
    are the weights that strategies compute from them.

    Args:
        index: Position of each active loss among all M losses. A strategy with state keeps buffers [M] and uses
            `buffer[index]`. Shape [m] int64.
        losses: Values over the whole batch, detached, float64. Shape [m].
        user_weights: Weights from the config, float64. Shape [m].
        gradients: d loss_i / d output, or None in steps that do not need them. Shape [m, B, C, T] float32, on the
            training device.
        shared_gradient: Computes gradients at the shared parameters; None if the caller does not support it.
        elapsed: Steps since the strategy was last called with gradients, 1 if it is called in every step.
        known: Values that were read from the device before, by the name of the measurement.

    Attributes:
        used: Measurements that were asked for. The balancer reads them together in the next step.
    """

    index: Tensor
    losses: Tensor
    user_weights: Tensor
    gradients: Tensor | None
    shared_gradient: SharedGradient | None = None
    elapsed: int = 1
    known: dict[Hashable, Tensor] = field(default_factory=dict)
    used: dict[Hashable, Measurement] = field(default_factory=dict, init=False)

    def measure(self, name: Hashable, measurement: Measurement) -> Tensor:
        """The result of `measurement` on the host. Without a known value this waits for the device.

        Args:
            name: The same for the same measurement in every step.
            measurement: Must not read the device. It gets statistics of losses that may not be on the host.
        """
        self.used[name] = measurement
        if name not in self.known:
            self.known[name] = measurement(self).cpu()
        return self.known[name]

    def ema_coefficients(self, decay: float) -> tuple[float, float]:
        """Coefficients (kept, added) of a discounted sum over steps: sum = kept * sum + added * value.

        This step's value counts for all `elapsed` steps, so the time constant of an average does not depend on
        `refresh_every`. kept is decay^elapsed, added is 1 + decay + ... + decay^(elapsed - 1).

        Args:
            decay: Decay per step, in [0, 1).
        """
        kept = decay**self.elapsed
        return kept, (1 - kept) / (1 - decay) if self.elapsed > 1 else 1.0

    @cached_property
    def jacobian(self) -> Tensor:
        """Gradients with all axes but the first flattened. Shape: [m, B * C * T].

        Raises:
            RuntimeError: This step has no gradients.
        """
        if self.gradients is None:
            raise RuntimeError("a strategy that uses gradients must set needs_gradients = True")
        return self.gradients.flatten(1)

    @property
    def batch_size(self) -> int:
        """Items B of the whole batch; 1 in steps without gradients."""
        return 1 if self.gradients is None else self.gradients.shape[1] * num_processes()

    def norm(self, gradients: Tensor) -> Tensor:
        """L2 norm over the whole batch. Shape: gradients [..., B * C * T] -> [...] float64."""
        norm = torch.linalg.vector_norm(gradients, dim=-1, dtype=torch.float64)
        return norm if num_processes() == 1 else sum_over_processes(norm.square()).sqrt() / num_processes()

    def item_norm(self, gradients: Tensor) -> Tensor:
        """L2 norm of each item, mean over the batch. Shape: gradients [..., B * C * T] -> [...] float64."""
        items = gradients.unflatten(-1, (self.batch_size // num_processes(), -1))
        norms = torch.linalg.vector_norm(items, dim=-1, dtype=torch.float64)
        return mean_over_processes(norms.mean(-1)) / num_processes()

    def inner_products(self, gradients: Tensor, others: Tensor) -> Tensor:
        """Shape: gradients [m, B * C * T], others [B * C * T, *] -> [m, *], in their dtype."""
        return sum_over_processes(gradients @ others) / num_processes() ** 2

    @cached_property
    def device_norms(self) -> Tensor:
        """As `norms`, on the training device. Shape: [m] float64."""
        return self.norm(self.jacobian)

    @property
    def norms(self) -> Tensor:
        """L2 norm of each gradient over the whole batch. Shape: [m] float64."""
        return self.measure("norms", lambda statistics: statistics.device_norms)

    @property
    def item_norms(self) -> Tensor:
        """L2 norm of each gradient per batch item, averaged over items. Shape: [m] float64."""
        return self.measure("item_norms", lambda statistics: statistics.item_norm(statistics.jacobian))

    @property
    def cosines(self) -> Tensor:
        """Cosine of every pair of gradients; 0 between a zero gradient and another. Shape: [m, m] float64.

        Computed from unit rows in float64. In a Gramian of raw rows with very different norms, the small entries would
        be lost to rounding, and TF32 or autocast would round the products.
        """
        return self.measure("cosines", _cosines)

    @cached_property
    def gramian(self) -> Tensor:
        """Inner products of the gradients. Shape: [m, m] float64."""
        return self.norms[:, None] * self.cosines * self.norms

    def parameter_norms(self, layers: SharedLayers) -> Tensor:
        """L2 norm of each loss's gradient at the shared parameters. Shape: -> [m] float64.

        Raises:
            ValueError: The balancer was called without `shared_gradient`.
        """
        return self.measure(layers, partial(Statistics.device_parameter_norms, layers=layers))

    def device_parameter_norms(self, layers: SharedLayers) -> Tensor:
        """As `parameter_norms`, on the training device. Shape: -> [m] float64."""
        if self.gradients is None or self.shared_gradient is None:
            raise ValueError(f"norms at {layers} need shared_gradient, but the balancer was called without it")
        norms = [
            torch.linalg.vector_norm(mean_over_processes(self.shared_gradient(gradient, layers)), dtype=torch.float64)
            for gradient in self.gradients
        ]
        return torch.stack(norms)

    def scaled(self, factors: Tensor) -> "Statistics":
        """The same step with loss i multiplied by `factors[i]`.

        Norms, cosines and inner products are scaled by arithmetic on m numbers. The gradients are scaled only if
        `jacobian` is used.

        Shape: factors [m].
        """
        losses = self.losses * factors
        return _Scaled(
            self.index, losses, self.user_weights, self.gradients, self.shared_gradient, self.elapsed,
            origin=self, factors=factors,
        )  # fmt: skip


@dataclass(kw_only=True)
class _Scaled(Statistics):
    origin: Statistics
    factors: Tensor

    @cached_property
    def jacobian(self) -> Tensor:
        return self.origin.jacobian * like(self.factors, self.origin.jacobian)[:, None]

    @property
    def norms(self) -> Tensor:
        return self.origin.norms * self.factors.abs()

    @property
    def item_norms(self) -> Tensor:
        return self.origin.item_norms * self.factors.abs()

    @property
    def cosines(self) -> Tensor:
        sign = self.factors.sign()
        return sign[:, None] * self.origin.cosines * sign

    def parameter_norms(self, layers: SharedLayers) -> Tensor:
        return self.origin.parameter_norms(layers) * self.factors.abs()


def like(values: Tensor, other: Tensor) -> Tensor:
    """The values on the device and in the dtype of `other`. The host does not wait for the copy.

    Shape: values [*] -> [*].
    """
    return values.to(other.device, other.dtype, non_blocking=True)


def _cosines(statistics: Statistics) -> Tensor:
    """Shape: -> [m, m] float64."""
    unit = statistics.jacobian / statistics.device_norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    return statistics.inner_products(unit, unit.t()).clamp(-1, 1).fill_diagonal_(1.0)
