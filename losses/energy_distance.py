"""Generalised energy distance (Gritsenko et al. 2020, A spectral energy distance for parallel speech synthesis)."""

from torch import Tensor, nn

from losses.inputs import check_pair
from losses.protocols import Loss, minimum_samples, segment_samples

__all__ = ["EnergyDistance"]


class EnergyDistance(nn.Module):
    """Distance to the reference less half the distance between two outputs for it: E d(y, x) - 1/2 E d(y, y').

    It is half of the paper's equation 3 without the term of the data. Without the second term a decoder learns the
    average of all likely outputs, which has no noise. With it, the loss is lowest if outputs and references have the
    same distribution.

    Outputs 2 i and 2 i + 1 of a batch are a pair if their references are equal: set `trainer.outputs_per_segment=2`,
    and use a decoder with noise. A batch whose references are not all in pairs has the first term only.

    Args:
        distance: A symmetric loss, such as `MultiScaleMel`. It needs no gradient to its reference.

    Attributes:
        minimum_samples, window_samples: Those of `distance`.

    Shape: estimate [B, C, T], reference [B, C, T] -> scalar, which may be negative.

    Raises:
        ValueError: The signals have the wrong shape.
    """

    def __init__(self, distance: Loss) -> None:
        super().__init__()
        self.distance = distance
        self.minimum_samples = minimum_samples(distance)
        self.window_samples = segment_samples(distance)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        check_pair(estimate, reference, self.minimum_samples)
        attraction = self.distance(estimate, reference)
        if len(estimate) % 2:
            return attraction
        others = estimate.detach().unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        # Each pair counts twice here. Both gradients are needed, as no gradient flows to `others`, but half the value.
        repulsion = self.distance(estimate, others)
        are_pairs = (reference[::2] == reference[1::2]).all()
        return attraction - are_pairs * (repulsion - repulsion.detach() / 2)
