"""How each loss is multiplied before the gradients meet: one file a method."""

from balancer.scales.ema_norm import EmaNorm
from balancer.scales.static import Static

__all__ = ["EmaNorm", "Static"]
