"""Gradients of a quantized latent with respect to the latent: functions of (latent, quantized).

Each returns the value of `quantized`, up to rounding. A quantizer takes one as its `estimator`.
"""

import torch
from torch import Tensor

__all__ = ["rotation", "straight_through"]


def straight_through(latent: Tensor, quantized: Tensor) -> Tensor:
    """Copies the gradient to the latent (Bengio et al. 2013; VQ-VAE, van den Oord et al. 2017).

    Shape: [..., D], [..., D] -> [..., D].
    """
    return latent + (quantized - latent).detach()


def rotation(latent: Tensor, quantized: Tensor) -> Tensor:
    """The rotation trick (Fifty et al. 2024, equation 4): quantization as a constant rotation and scaling.

    The vector e is quantized to q = (|q| / |e|) R e. The rotation R in the plane of e and q and the factor count as
    constants, so the gradient is turned back by the angle between q and e. The gradients of latents in one cell then
    differ. A vector that is zero or opposite to its code has no such rotation, and gets the straight-through gradient.

    Shape: [..., D], [..., D] -> [..., D].
    """
    with torch.no_grad():
        lengths = latent.norm(dim=-1, keepdim=True), quantized.norm(dim=-1, keepdim=True)
        tiny = torch.finfo(latent.dtype).tiny ** 0.5
        ours, theirs = latent / lengths[0].clamp_min(tiny), quantized / lengths[1].clamp_min(tiny)
        between = ours + theirs
        size = between.norm(dim=-1, keepdim=True)
        between = between / size.clamp_min(tiny)
        factor = lengths[1] / lengths[0].clamp_min(tiny)
        # Rounding decides the direction of a sum that nearly cancels.
        defined = (lengths[0] > tiny) & (lengths[1] > tiny) & (size > torch.finfo(latent.dtype).eps ** 0.5)
    projected = (latent * between).sum(-1, keepdim=True) * between
    rotated = latent - 2 * projected + 2 * (latent * ours).sum(-1, keepdim=True) * theirs
    return torch.where(defined, factor * rotated, straight_through(latent, quantized))
