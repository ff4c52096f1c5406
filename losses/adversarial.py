"""GAN losses of EnCodec (Défossez et al. 2022, section 3.4) and usual variants: hinge, least squares, feature matching.

Logits are one tensor for each of K sub-discriminators, features one list of layers for each. Every loss is a mean over
elements, then over layers, then over sub-discriminators (the paper's 1/K and 1/KL), in float32. The codec's losses may
be sums over layers and sub-discriminators instead (HiFi-GAN, DAC).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from losses.means import mean_weights
from losses.protocols import DiscriminatorOutput

__all__ = ["AdversarialLoss", "discriminator_loss", "feature_matching_loss", "generator_loss", "mean_logit"]

AdversarialForm = Literal["hinge", "hinge_linear", "least_squares"]
FeatureMatching = Literal["relative", "plain"]
Reduction = Literal["mean", "sum"]


class AdversarialLoss:
    """Adversarial loss and feature matching of the codec, and the loss of the discriminator.

    Args:
        generator: Form of the adversarial loss, see `generator_loss`.
        feature_matching: `relative` divides the mean distance of each layer by its mean absolute reference (the paper's
            equation 2). `plain` does not (audiocraft, HiFi-GAN).
        reduction: Of the codec's losses over layers and sub-discriminators. With `sum` (HiFi-GAN, DAC) a discriminator
            of many layers has a large feature matching loss: DAC's has a hundred layers. The discriminator's own loss
            is always a mean, because the steps of Adam do not depend on its scale.

    Raises:
        ValueError: A form is unknown.
    """

    names = ("adversarial", "feature_matching")

    def __init__(
        self,
        generator: AdversarialForm = "hinge",
        feature_matching: FeatureMatching = "relative",
        reduction: Reduction = "mean",
    ) -> None:
        for name, value, choices in (("generator", generator, AdversarialForm), ("reduction", reduction, Reduction),
                                     ("feature_matching", feature_matching, FeatureMatching)):  # fmt: skip
            if value not in get_args(choices):
                raise ValueError(f"expected {name} to be one of {get_args(choices)}, got {value!r}")
        self.form: AdversarialForm = generator
        self.relative = feature_matching == "relative"
        self.reduction: Reduction = reduction

    @property
    def uninformed_discriminator_loss(self) -> float:
        """The lowest loss of a discriminator that gives real and coded audio the same logits."""
        return 0.5 if self.form == "least_squares" else 2.0

    def generator_losses(self, estimate: DiscriminatorOutput, reference: DiscriminatorOutput) -> dict[str, Tensor]:
        """The codec's two losses. No gradient flows to the reference."""
        return {
            "adversarial": generator_loss(estimate.logits, self.form, self.reduction),
            "feature_matching": feature_matching_loss(
                estimate.features, reference.features, self.relative, self.reduction
            ),
        }

    def discriminator_loss(self, estimate: DiscriminatorOutput, reference: DiscriminatorOutput) -> Tensor:
        """The discriminator's loss, a scalar."""
        return discriminator_loss(estimate.logits, reference.logits, self.form)


def generator_loss(
    estimate_logits: Sequence[Tensor], form: AdversarialForm = "hinge", reduction: Reduction = "mean"
) -> Tensor:
    """The codec's adversarial loss of the logits D of its output.

    Args:
        estimate_logits: Logits of each sub-discriminator for the codec's output.
        form: `hinge` is max(0, 1 - D), the paper's, which is 0 where D > 1 (audiocraft calls it hinge2).
            `hinge_linear` is -D, audiocraft's hinge, with the same gradient everywhere.
            `least_squares` is (1 - D)² (Mao et al. 2017; HiFi-GAN, DAC).
        reduction: Over the sub-discriminators.

    Shape: K tensors [*] -> scalar.

    Raises:
        ValueError: There are no logits.
    """
    if form == "hinge":
        mean = _mean(estimate_logits, lambda logits: (1 - logits).relu())
    elif form == "hinge_linear":
        mean = _mean(estimate_logits, lambda logits: -logits)
    else:
        mean = _mean(estimate_logits, lambda logits: (1 - logits).square())
    return mean if reduction == "mean" else len(estimate_logits) * mean


def discriminator_loss(
    estimate_logits: Sequence[Tensor], reference_logits: Sequence[Tensor], form: AdversarialForm = "hinge"
) -> Tensor:
    """The discriminator's loss of its logits D.

    It is max(0, 1 + D(estimate)) + max(0, 1 - D(reference)) with both hinges, and D(estimate)² + (1 - D(reference))²
    with least squares.

    Args:
        estimate_logits: Logits of each sub-discriminator for the codec's output.
        reference_logits: Logits for real audio.
        form: Form of the codec's loss.

    Shape: K tensors [*], K tensors [*] -> scalar.

    Raises:
        ValueError: There are no logits.
    """
    if form == "least_squares":
        return _mean(estimate_logits, torch.square) + _mean(reference_logits, lambda logits: (1 - logits).square())
    return _mean(estimate_logits, lambda logits: (1 + logits).relu()) + _mean(
        reference_logits, lambda logits: (1 - logits).relu()
    )


def mean_logit(logits: Sequence[Tensor]) -> Tensor:
    """Mean over sub-discriminators of their mean logits.

    Shape: K tensors [*] -> scalar.

    Raises:
        ValueError: There are no logits.
    """
    return _mean(logits, lambda tensor: tensor)


def feature_matching_loss(
    estimate_features: Sequence[Sequence[Tensor]],
    reference_features: Sequence[Sequence[Tensor]],
    relative: bool,
    reduction: Reduction = "mean",
) -> Tensor:
    """Mean absolute difference of discriminator features (Défossez et al. 2022, equation 2).

    No gradient flows to the reference features.

    Args:
        estimate_features: For each sub-discriminator the outputs of its layers on the codec's output.
        reference_features: The same on real audio.
        relative: Divide the mean absolute difference of each layer by the mean absolute reference feature. In
            distributed training that is the mean over the batches of all processes.
        reduction: Over the layers of a sub-discriminator, and over the sub-discriminators.

    Shape: K lists of L tensors [*], twice -> scalar.

    Raises:
        ValueError: The two differ in sub-discriminators, layers or shapes.
    """
    shapes = [
        [[list(layer.shape) for layer in layers] for layers in side] for side in (estimate_features, reference_features)
    ]
    if shapes[0] != shapes[1] or not shapes[0] or not all(shapes[0]):
        raise ValueError(f"expected features of the same shapes, got {shapes[0]} and {shapes[1]}")
    # One vector over all layers of all sub-discriminators, and the weight of each: 1/K of 1/L, or 1.
    estimates = [layer for layers in estimate_features for layer in layers]
    references = [layer.detach() for layers in reference_features for layer in layers]
    counts = [len(reference_features) * len(layers) if reduction == "mean" else 1 for layers in reference_features]
    shares = tuple(1 / n for n, layers in zip(counts, reference_features, strict=True) for _ in layers)
    if estimates[0].device.type == "cpu":
        distances = torch.stack([_MeanDistance.apply(*pair) for pair in zip(estimates, references, strict=True)])
    else:
        distances = _MeanDistances.apply(*estimates, *references)
    weights = _constant(shares, distances.device)
    if relative:
        levels = _mean_over_processes(_mean_magnitudes(references))
        # The smallest normal number keeps the loss finite if all reference features of a layer are zero.
        weights = weights / levels.clamp(min=torch.finfo(levels.dtype).tiny)
    return distances @ weights


@functools.lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied to the device once, because the host waits for such a copy."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


def _mean_magnitudes(tensors: Sequence[Tensor]) -> Tensor:
    """Mean magnitude of each tensor, in float32. Shape: n tensors [*] -> [n]."""
    if tensors[0].device.type == "cpu":
        return torch.stack([_feature_mean(tensor.abs()) for tensor in tensors])
    sums = torch.stack(torch._foreach_norm(list(tensors), 1, dtype=torch.float32))
    return sums * _constant(tuple(1 / tensor.numel() for tensor in tensors), sums.device)


def _mean_over_processes(values: Tensor) -> Tensor:
    """Shape: [*] -> [*], in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


class _MeanDistance(torch.autograd.Function):
    """`(estimate - reference).abs().mean()` for a reference without gradient.

    It keeps no tensor for the backward pass, because the discriminator's layers keep both features. Plain autograd
    keeps one more tensor of their size and makes three times as many passes over the memory.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, estimate: Tensor, reference: Tensor) -> Tensor:
        ctx.save_for_backward(estimate, reference)
        return _feature_mean((estimate - reference).abs_())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        estimate, reference = ctx.saved_tensors
        # sign is 0 where the two are equal, the subgradient that torch uses for abs at 0.
        return (estimate - reference).sign_().mul_(gradient / estimate.numel()), None


class _MeanDistances(torch.autograd.Function):
    """`_MeanDistance` of n pairs, in a few kernels for all of them: a launch costs more than these small means.

    Shape: n estimates [*], then n references [*] -> [n].
    """

    @staticmethod
    def forward(ctx: FunctionCtx, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return _mean_magnitudes(_differences(tensors))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        differences = _differences(ctx.saved_tensors)
        slopes = gradient * _constant(tuple(1 / each.numel() for each in differences), gradient.device)
        torch._foreach_sign_(differences)
        for each, slope in zip(differences, slopes.unbind(), strict=True):
            each.mul_(slope)
        return (*differences, *[None] * len(differences))


def _differences(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The first half of the tensors minus the second. Shape: 2 n tensors [*] -> n tensors [*]."""
    half = len(tensors) // 2
    return list(torch._foreach_sub(list(tensors[:half]), list(tensors[half:])))


def _mean(logits: Sequence[Tensor], penalty: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over sub-discriminators of mean penalties, with a float32 accumulator and result for bfloat16 logits."""
    if not logits:
        raise ValueError("expected the logits of at least one sub-discriminator, got none")
    sizes, shares = tuple(tensor.numel() for tensor in logits), (1 / len(logits),) * len(logits)
    penalties = penalty(torch.cat([tensor.flatten() for tensor in logits]))
    dtype = torch.promote_types(penalties.dtype, torch.float32)
    return (penalties * mean_weights(sizes, shares, penalties.device, dtype)).mean()


def _float_mean(tensor: Tensor) -> Tensor:
    """Mean with a float32 accumulator and result, without a float32 copy of a bfloat16 tensor."""
    return tensor.mean(dtype=torch.promote_types(tensor.dtype, torch.float32))


def _feature_mean(features: Tensor) -> Tensor:
    """`_float_mean`, computed per channel first for bfloat16 features [B, channels, *].

    With one bfloat16 result per channel, torch sums on the CPU ten times as fast as with one float32 result. The
    rounding of these results changes the mean by 2e-4.
    """
    if features.dtype != torch.bfloat16 or features.dim() < 3:
        return _float_mean(features)
    elements = features.shape[2:].numel()
    return _float_mean(features.sum(list(range(2, features.dim())))) / elements
