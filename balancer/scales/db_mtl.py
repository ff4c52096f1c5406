"""DB-MTL, dual balancing (Lin et al. 2023): gradients of the losses' logarithms, at the largest of their norms."""

from collections.abc import Mapping

from torch import Tensor, nn

from balancer.checks import check_range
from balancer.moving_average import MovingAverage
from balancer.statistics import Statistics

__all__ = ["DBMTL"]


class DBMTL(nn.Module):
    """max_k u_k / u_i / |L_i| with a moving average u_i of |grad ln L_i| = |g_i| / |L_i|.

    The paper averages gradients at the shared parameters. Gradients at the decoder output belong to another batch in
    every step, and their mean has no meaning. This class averages their norms instead.

    Loss values affect only the common norm. A value below `smallest_loss`, including 0, counts as `smallest_loss`. The
    magnitude of a negative loss is used, so that no gradient is reversed. The paper assumes positive losses.

    Args:
        decay: Decay of the moving average.
        smallest_loss: Bounds the common norm by the largest |g_i| / smallest_loss.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_gradients = True

    def __init__(self, decay: float = 0.9, smallest_loss: float = 1e-3) -> None:
        super().__init__()
        check_range("[0, 1)", decay=decay)
        check_range("(0, inf)", smallest_loss=smallest_loss)
        self.decay = decay
        self.smallest_loss = smallest_loss

    def prepare(self, weights: Mapping[str, float]) -> None:
        self.average = MovingAverage(len(weights), self.decay)

    def forward(self, statistics: Statistics) -> Tensor:
        """Shape: -> [m] float64."""
        values = statistics.losses.abs().clamp_min(self.smallest_loss)
        norms = self.average(statistics, statistics.norms / values)
        return norms.max() / norms / values
