"""How the scaled gradients are weighed against each other: one file a method."""

from balancer.directions.sum import Sum

__all__ = ["Sum"]
