"""A network from two others: the encoder of one and the decoder of the other."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from codec.network.network import Network

__all__ = ["EncoderDecoder"]


@dataclass(frozen=True, kw_only=True)
class EncoderDecoder:
    """The encoder of one network and the decoder of another, such as a SEANet encoder with an ISTFT decoder.

    It streams if both do. Settings of `encoder` that concern only its decoder have no effect, and vice versa.

    Args:
        encoder: Network whose encoder is used.
        decoder: Network whose decoder is used; of the same `channels`, `latent_dim` and `hop_samples`.

    Raises:
        ValueError: The two differ in one of these; the message names all that differ.
    """

    encoder: Network
    decoder: Network

    def __post_init__(self) -> None:
        differing = [
            f"{name} is {getattr(self.encoder, name)} in the encoder and {getattr(self.decoder, name)} in the decoder"
            for name in ("channels", "latent_dim", "hop_samples")
            if getattr(self.encoder, name) != getattr(self.decoder, name)
        ]
        if differing:
            raise ValueError(f"encoder and decoder do not fit each other: {'; '.join(differing)}")

    @property
    def channels(self) -> int:
        """Audio channels."""
        return self.encoder.channels

    @property
    def latent_dim(self) -> int:
        """Width D of the latent."""
        return self.encoder.latent_dim

    @property
    def hop_samples(self) -> int:
        """Audio samples per latent frame."""
        return self.encoder.hop_samples

    @property
    def causal(self) -> bool:
        """Whether both stream."""
        return self.encoder.causal and self.decoder.causal

    def settings(self) -> dict[str, Any]:
        """Class name (`name`) and settings of both networks."""
        return {
            role: {"name": type(network).__name__} | network.settings()
            for role, network in (("encoder", self.encoder), ("decoder", self.decoder))
        }

    def make_encoder(self) -> nn.Module:
        """A new encoder with random weights."""
        return self.encoder.make_encoder()

    def make_decoder(self) -> nn.Module:
        """A new decoder with random weights."""
        return self.decoder.make_decoder()
