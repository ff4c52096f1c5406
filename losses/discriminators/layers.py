"""Forward passes that all discriminators share."""

from torch import Tensor, nn
from torch.nn import functional as F

from losses.protocols import DiscriminatorOutput

__all__ = ["forward_features", "forward_sub_discriminators", "normalize_peak"]


def forward_sub_discriminators(sub_discriminators: nn.ModuleList, audio: Tensor) -> DiscriminatorOutput:
    """Runs every sub-discriminator on every channel.

    Shape: audio [B, C, T] -> K logits [B C, 1, *], K lists of features [B C, channels, *].
    """
    outputs = [network(audio.flatten(0, 1)) for network in sub_discriminators]
    return DiscriminatorOutput([logits for logits, _ in outputs], [features for _, features in outputs])


def normalize_peak(audio: Tensor, peak: float) -> Tensor:
    """Removes the mean of each signal and sets its largest magnitude to `peak`. Silence stays silence.

    Shape: [*, T] -> [*, T].
    """
    audio = audio - audio.mean(-1, keepdim=True)
    return peak * audio / (audio.abs().amax(-1, keepdim=True) + 1e-9)


def forward_features(
    convs: nn.ModuleList, output: nn.Module, signal: Tensor, negative_slope: float
) -> tuple[Tensor, list[Tensor]]:
    """Runs the layers of a sub-discriminator and keeps the output of every leaky ReLU.

    Shape: signal [N, channels, *] -> logits [N, 1, *], features.
    """
    features = []
    for conv in convs:
        # In place: the gradients of a convolution do not need its output, so one tensor per layer is kept, not two.
        signal = F.leaky_relu(conv(signal), negative_slope, inplace=True)
        features.append(signal)
    return output(signal), features
