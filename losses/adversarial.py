"""What the discriminator and the codec each want: hinge or least-squares losses, and feature matching.

Logits come as one tensor for each of K sub-discriminators, features as one list of layers for each. Every loss is a
mean over elements, then over layers, then over the K sub-discriminators (the paper's 1/K and 1/KL), in float32.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

__all__ = ["AdversarialLoss", "feature_matching_loss"]

GeneratorLoss = Literal["hinge", "hinge_linear", "least_squares"]
FeatureMatching = Literal["relative", "plain"]


class AdversarialLoss:
    """The adversarial terms of EnCodec (Défossez et al. 2022, section 3.4) and their usual variants.

    Args:
        generator: What the codec minimises on the discriminator's verdict D of its output.
            "hinge": max(0, 1 - D), the paper's (audiocraft calls it hinge2), which rests once D > 1;
            "hinge_linear": -D (audiocraft's hinge), which never rests;
            "least_squares": (1 - D)² (Mao et al. 2017; HiFi-GAN, DAC).
            The discriminator minimises max(0, 1 - D(reference)) + max(0, 1 + D(estimate)) with both hinges, and
            (1 - D(reference))² + D(estimate)² with least squares.
        feature_matching: "relative", each layer's mean distance over its mean absolute reference (the paper's
            equation 2), or "plain", the mean distance (audiocraft, HiFi-GAN).
    """

    def __init__(self, generator: GeneratorLoss = "hinge", feature_matching: FeatureMatching = "relative") -> None:
        if generator not in get_args(GeneratorLoss):
            raise ValueError(f"expected generator to be one of {get_args(GeneratorLoss)}, got {generator!r}")
        if feature_matching not in get_args(FeatureMatching):
            raise ValueError(
                f"expected feature_matching to be one of {get_args(FeatureMatching)}, got {feature_matching!r}"
            )
        self._generator: GeneratorLoss = generator
        self._relative = feature_matching == "relative"

    @property
    def uninformed_discriminator_loss(self) -> float:
        """The lowest loss of a discriminator that gives real and coded audio the same logits."""
        return 0.5 if self._generator == "least_squares" else 2.0

    def generator(self, estimate_logits: Sequence[Tensor]) -> Tensor:
        """The codec's loss: its output should be taken for real.

        Shape: K tensors [*] -> scalar.
        """
        if self._generator == "hinge":
            return _mean(estimate_logits, lambda logits: (1 - logits).relu())
        if self._generator == "hinge_linear":
            return _mean(estimate_logits, lambda logits: -logits)
        return _mean(estimate_logits, lambda logits: (1 - logits).square())

    def discriminator(self, estimate_logits: Sequence[Tensor], reference_logits: Sequence[Tensor]) -> Tensor:
        """The discriminator's loss: tell the codec's output from real audio.

        Shape: K tensors [*], K tensors [*] -> scalar.
        """
        if self._generator == "least_squares":
            return _mean(estimate_logits, torch.square) + _mean(reference_logits, lambda logits: (1 - logits).square())
        return _mean(estimate_logits, lambda logits: (1 + logits).relu()) + _mean(
            reference_logits, lambda logits: (1 - logits).relu()
        )

    def features(
        self, estimate_features: Sequence[Sequence[Tensor]], reference_features: Sequence[Sequence[Tensor]]
    ) -> Tensor:
        """The codec's second loss: look like the reference inside the discriminator; see `feature_matching_loss`.

        Shape: K lists of L tensors [*], twice -> scalar.
        """
        return feature_matching_loss(estimate_features, reference_features, self._relative)


def feature_matching_loss(
    estimate_features: Sequence[Sequence[Tensor]],
    reference_features: Sequence[Sequence[Tensor]],
    relative: bool,
) -> Tensor:
    """Distance of two signals inside the discriminator (Défossez et al. 2022, equation 2). The reference is a target:
    no gradient goes to its features.

    Args:
        estimate_features: For each sub-discriminator the outputs of its layers on the codec's output.
        reference_features: The same on real audio.
        relative: Divide each layer's mean absolute difference by the mean absolute value of the reference's features:
            over the whole batch, if several processes share it.

    Shape: K lists of L tensors [*], twice -> scalar.

    Raises:
        ValueError: The two differ in sub-discriminators, layers or shapes.
    """
    shapes = [
        [[list(layer.shape) for layer in layers] for layers in side] for side in (estimate_features, reference_features)
    ]
    if shapes[0] != shapes[1] or not shapes[0] or not all(shapes[0]):
        raise ValueError(f"expected features of the same shapes, got {shapes[0]} and {shapes[1]}")
    # One vector over all layers of all sub-discriminators, and the weight of each: 1/K of 1/L.
    pairs = [
        (estimate, reference.detach(), 1 / (len(reference_features) * len(references)))
        for estimates, references in zip(estimate_features, reference_features, strict=True)
        for estimate, reference in zip(estimates, references, strict=True)
    ]
    distances = torch.stack([_MeanDistance.apply(estimate, reference) for estimate, reference, _ in pairs])
    weights = distances.new_tensor([weight for _, _, weight in pairs])
    if relative:
        scales = _mean_over_processes(torch.stack([_feature_mean(reference.abs()) for _, reference, _ in pairs]))
        # A layer whose features are all zero would divide by zero; the smallest normal number keeps the loss finite.
        weights = weights / scales.clamp(min=torch.finfo(scales.dtype).tiny)
    return distances @ weights


def _mean_over_processes(values: Tensor) -> Tensor:
    """Shape: [*] -> [*], in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


class _MeanDistance(torch.autograd.Function):
    """Mean of |estimate - reference|, for a target without gradient: `(estimate - reference).abs().mean()` with a third
    of its passes over memory, which are what feature matching costs beside the convolutions.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, estimate: Tensor, reference: Tensor) -> Tensor:
        difference = estimate - reference
        ctx.save_for_backward(difference)
        return _feature_mean(difference.abs())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        # sign is 0 where the two agree, as the subgradient of abs at 0 is in torch.
        return difference.sign().mul_(slope / difference.numel()), None


def _mean(logits: Sequence[Tensor], penalty: Callable[[Tensor], Tensor]) -> Tensor:
    if not logits:
        raise ValueError("expected the logits of at least one sub-discriminator, got none")
    return torch.stack([_float_mean(penalty(tensor)) for tensor in logits]).mean()


def _float_mean(tensor: Tensor) -> Tensor:
    """Mean with a float32 accumulator and result, without a float32 copy of a bfloat16 tensor."""
    return tensor.mean(dtype=torch.promote_types(tensor.dtype, torch.float32))


def _feature_mean(features: Tensor) -> Tensor:
    """`_float_mean`, of bfloat16 features [B, channels, *] by channels first.

    With a bfloat16 result for each torch sums in float32 ten times as fast as with one float32 result for all; what the
    rounding of so many results leaves of the mean is 2e-4.
    """
    if features.dtype != torch.bfloat16 or features.dim() < 3:
        return _float_mean(features)
    elements = features.shape[2:].numel()
    return _float_mean(features.sum(list(range(2, features.dim())))) / elements
