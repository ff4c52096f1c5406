"""What a codec needs of a network."""

from typing import Any, Protocol

from torch import nn

__all__ = ["Network"]


class Network(Protocol):
    """The description of an encoder and a decoder: plain settings, and two methods that make the modules.

    `SEANet` and `ISTFTNetwork` are two, frozen dataclasses; `EncoderDecoder` combines two networks. A network of your
    own is a class with these members, named by `codec.network._target_`.

    The modules it makes are called with one tensor. They name two of their layers:

    - `encoder.input_layer`, the first layer: it stays in float32 under bfloat16 autocast, because rounding the waveform
      to 8 bits adds audible noise.
    - `decoder.output_layer`, the last `nn.Conv1d` or `nn.Linear`: it stays in float32 for the same reason, and
      gradient-norm strategies such as GradNorm measure gradients at its weight.

    An encoder may have the attribute `mixes_lengths`. True says that signals of several lengths may share a padded
    batch: only `codec.network.conv.Conv1d` pads, and no layer takes an average over the signal.

    A module that draws random numbers in training has a true attribute `is_stochastic`. The trainer then seeds torch's
    generator of the CPU before each pass, so that a resumed run draws the same.

    A causal network must stream: both modules hold their layers in order as `layers`, and every layer is pointwise or
    has the methods `stream()` and `past_inputs()`, see `codec.network.stream`. If yours cannot, say `causal = False`.

    Attributes:
        channels: Audio channels.
        latent_dim: Width D of the latent.
        hop_samples: Audio samples per latent frame.
        causal: Whether the network streams: a frame depends on at most a fixed number of later samples. A stream
            returns it once they are pushed.
    """

    @property
    def channels(self) -> int: ...

    @property
    def latent_dim(self) -> int: ...

    @property
    def hop_samples(self) -> int: ...

    @property
    def causal(self) -> bool: ...

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make an equal network: numbers, strings and lists of them.

        A part that is itself a network is a mapping of its class name (`name`) and its settings. A name that begins
        with `encoder_` or `decoder_` concerns that module only.
        """

    def make_encoder(self) -> nn.Module:
        """Shape of the module: audio [B, C, T] -> latent [B, D, ceil(T / hop_samples)]."""

    def make_decoder(self) -> nn.Module:
        """Shape of the module: latent [B, D, F] -> audio [B, C, F * hop_samples]."""
