"""GAN losses of EnCodec (Défossez et al. 2022, section 3.4) and usual variants: hinge, least squares, feature matching.

Logits are one tensor for each of K sub-discriminators, features one list of layers for each. Every loss is a mean over
elements, then over layers, then over sub-discriminators (the paper's 1/K and 1/KL), in float32. The codec's losses may
be sums over layers and sub-discriminators instead (HiFi-GAN, DAC).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses.inputs import at_least_float32, without_autocast
from losses.means import constant, mean_weights
from losses.protocols import DiscriminatorOutput

__all__ = ["AdversarialLoss", "discriminator_loss", "feature_matching_loss", "generator_loss", "mean_logits"]

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
        mean = _hinge(estimate_logits, [-1.0] * len(estimate_logits), len(estimate_logits))
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
    count = len(estimate_logits)
    if form == "least_squares":
        return _mean(estimate_logits, torch.square) + _mean(reference_logits, lambda logits: (1 - logits).square())
    return _hinge([*estimate_logits, *reference_logits], [1.0] * count + [-1.0] * len(reference_logits), count)


@torch.no_grad()
def mean_logits(*signals: Sequence[Tensor]) -> list[Tensor]:
    """Mean over sub-discriminators of their mean logits, for each signal.

    Args:
        signals: Logits of each sub-discriminator, of the same shapes for all signals.

    Shape: K tensors [*] for each signal -> a scalar for each.

    Raises:
        ValueError: There are no logits.
    """
    joined, sizes = _joined([tensor for logits in signals for tensor in logits])
    count = len(signals[0])
    weights = mean_weights(sizes[:count], (1 / count,) * count, joined.device, joined.dtype)
    return list((joined.view(len(signals), -1) * weights).sum(1).unbind())


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
    with without_autocast(references[0]):
        loss: Tensor = _Distances.apply(shares, relative, *estimates, *references)
    return loss


class _Distances(torch.autograd.Function):
    """Weighted sum of `(estimate - reference).abs().mean()` of n layers, for references without gradient.

    It keeps no tensor for the backward pass, because the discriminator's layers keep both features. Plain autograd
    keeps one more tensor of their size and makes three times as many passes over the memory. On a GPU a few kernels
    serve all layers, because a launch costs more than such a small sum.

    Shape: shares n numbers, n estimates [*], then n references [*] -> scalar.
    """

    @staticmethod
    def forward(ctx: Any, shares: Sequence[float], relative: bool, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        estimates, references = _halves(tensors)
        if tensors[0].device.type == "cpu":
            sums = [
                _sum((estimate - reference).abs_()) for estimate, reference in zip(estimates, references, strict=True)
            ]
            sums += [_sum(reference.abs()) for reference in references if relative]
        else:
            layers = [*torch._foreach_sub(estimates, references), *(references if relative else ())]
            sums = list(torch._foreach_norm(layers, 1, dtype=torch.promote_types(layers[0].dtype, torch.float32)))
        count = len(references)
        distances, levels = torch.stack(sums).split([count, len(sums) - count])
        if relative:
            # The smallest normal number keeps the loss finite if all reference features of a layer are zero.
            floors = _mean_over_processes(levels).clamp(min=torch.finfo(levels.dtype).tiny)
            ctx.weights = constant(tuple(shares), levels.device, levels.dtype) / floors
        else:
            means = (share / reference.numel() for share, reference in zip(shares, references, strict=True))
            ctx.weights = constant(tuple(means), distances.device, distances.dtype)
        return distances @ ctx.weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        estimates, references = _halves(ctx.saved_tensors)
        slopes = (gradient * ctx.weights).unbind()
        # sign is 0 where the two are equal, the subgradient that torch uses for abs at 0.
        if gradient.device.type == "cpu":
            pairs = zip(estimates, references, slopes, strict=True)
            found = [(estimate - reference).sign_().mul_(slope) for estimate, reference, slope in pairs]
        else:
            signs = torch._foreach_sub(estimates, references)
            torch._foreach_sign_(signs)
            found = [sign.mul_(slope) for sign, slope in zip(signs, slopes, strict=True)]
        return (None, None, *found, *[None] * len(found))


def _halves(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    half = len(tensors) // 2
    return list(tensors[:half]), list(tensors[half:])


def _mean_over_processes(values: Tensor) -> Tensor:
    """Shape: [*] -> [*]."""
    if dist.is_available() and dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def _mean(logits: Sequence[Tensor], penalty: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over sub-discriminators of mean penalties, in float32 for bfloat16 logits."""
    joined, sizes = _joined(logits)
    weights = mean_weights(sizes, (1 / len(sizes),) * len(sizes), joined.device, joined.dtype)
    with without_autocast(joined):
        return (penalty(joined) * weights).sum()


def _hinge(logits: Sequence[Tensor], signs: Sequence[float], count: int) -> Tensor:
    """Sum of the means of max(0, 1 + sign * D), divided by `count`, in float32 for bfloat16 logits."""
    joined, sizes = _joined(logits)
    weights, slopes = (
        mean_weights(sizes, tuple(factor / count for factor in factors), joined.device, joined.dtype)
        for factors in ([1.0] * len(signs), signs)
    )
    with without_autocast(joined):
        return torch.addcmul(weights, slopes, joined).relu().sum()  # weights are positive


def _joined(logits: Sequence[Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    """One vector, at least float32, and the sizes of its parts."""
    if not logits:
        raise ValueError("expected the logits of at least one sub-discriminator, got none")
    joined = torch.cat([tensor.flatten() for tensor in logits])
    return at_least_float32(joined), tuple(tensor.numel() for tensor in logits)


def _sum(features: Tensor) -> Tensor:
    """Sum with a float32 accumulator and result, computed per channel first for bfloat16 features [B, channels, *].

    With one bfloat16 result per channel, torch sums on the CPU ten times as fast as with one float32 result. The
    rounding of these results changes the sum by 2e-4 of it.
    """
    if features.dtype == torch.bfloat16 and features.dim() >= 3:
        features = features.sum(list(range(2, features.dim())))
    return features.sum(dtype=torch.promote_types(features.dtype, torch.float32))
