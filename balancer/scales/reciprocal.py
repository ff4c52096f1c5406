"""The quotient that scales which divide by a loss share."""

from torch import Tensor

__all__ = ["check_limit", "reciprocal"]


def reciprocal(values: Tensor, limit: float) -> Tensor:
    """1 / |v|, at most `limit`.

    The size, not the value: dividing by a negative loss would turn its gradient round.

    Shape: values [*] -> [*].
    """
    return 1 / values.abs().clamp_min(1 / limit)


def check_limit(limit: float) -> float:
    """Returns a bound on factors, or raises ValueError if it would not let a factor of 1 pass."""
    if not 1 < limit < float("inf"):
        raise ValueError(f"limit must be above 1 and finite, got {limit}")
    return limit
