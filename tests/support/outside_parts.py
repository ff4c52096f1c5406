"""Parts that live outside the packages, as a user's own would; settings name them by `outside_parts.NAME`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from balancer import Static


class DrawingScale(Static):
    """A weighted sum that draws from every global generator, when it is made and at every step."""

    def __init__(self) -> None:
        super().__init__()
        _draw()

    def __call__(self, statistics: Any) -> Tensor:
        _draw()
        return super().__call__(statistics)


def _draw() -> None:
    torch.rand(7)
    np.random.rand(7)  # noqa: NPY002 (the global generator is the point)
