"""The bounded reciprocal of scales that divide by a loss."""

from torch import Tensor

__all__ = ["reciprocal"]


def reciprocal(values: Tensor, limit: float) -> Tensor:
    """1 / |v|, at most `limit`.

    The magnitude is used because division by a negative loss would reverse its gradient.

    Shape: values [*] -> [*].
    """
    return 1 / values.abs().clamp_min(1 / limit)
