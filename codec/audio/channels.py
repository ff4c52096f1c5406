"""The one rule by which audio gets the number of channels that a codec has.

- Equal numbers: the audio is not changed.
- Mono to more: the channel is repeated.
- Stereo to mono: the mean.
- 3 to 8 channels: mixed to stereo with the weights of ITU-R BS.775-3, Annex 4. The mean of that is the mono mix.
- More than 8 channels have no common layout: the mean of all, repeated for stereo.

A file may name its channels: WAVE by a channel mask, Vorbis and Opus by their own order. Otherwise the layout is that
of WAVE files with this number of channels. A mix is divided by the sum of its weights, so that it never exceeds the
loudest channel. The channel for low-frequency effects is left out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["convert_channels", "describe_channels"]

_HALF_POWER = 2**-0.5
# Weights in the left and the right channel of the mix.
_WEIGHTS = {
    "FL": (1.0, 0.0),  # front
    "FR": (0.0, 1.0),
    "FC": (_HALF_POWER, _HALF_POWER),
    "LFE": (0.0, 0.0),  # low-frequency effects
    "BL": (_HALF_POWER, 0.0),  # back
    "BR": (0.0, _HALF_POWER),
    "BC": (0.5, 0.5),
    "SL": (_HALF_POWER, 0.0),  # side
    "SR": (0.0, _HALF_POWER),
    "FLC": (1.0, 0.0),  # front, between the middle and the side
    "FRC": (0.0, 1.0),
    "TC": (0.5, 0.5),  # top
    "TFL": (_HALF_POWER, 0.0),
    "TFC": (0.5, 0.5),
    "TFR": (0.0, _HALF_POWER),
    "TBL": (_HALF_POWER, 0.0),
    "TBC": (0.5, 0.5),
    "TBR": (0.0, _HALF_POWER),
}
_LAYOUTS = {
    3: "FL FR FC",
    4: "FL FR BL BR",
    5: "FL FR FC BL BR",
    6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR",
    8: "FL FR FC LFE BL BR SL SR",
}


def convert_channels(audio: Tensor, channels: int, layout: Sequence[str] | None = None) -> Tensor:
    """Mixes or repeats channels by the rule of this module.

    Args:
        audio: Any number of channels.
        channels: Of the result.
        layout: Names of the channels of `audio`, for example `("FL", "FR", "FC")`. None for the usual layout.

    Shape: [C, T] -> [channels, T].

    Raises:
        ValueError: More than two channels are wanted of audio that has neither one nor that number.
    """
    present = audio.shape[0]
    if present == channels:
        return audio
    if present == 1:
        return audio.expand(channels, -1)
    if channels > 2:
        raise ValueError(f"audio of {present} channels cannot be converted to {channels}, only to 1 or 2")
    names = layout or _LAYOUTS.get(present, "").split()
    if present > 2 and len(names) == present:
        weights = [[_WEIGHTS[name][side] for name in names] for side in (0, 1)]
        if all(map(any, weights)):  # otherwise one side has no channel at all
            audio = torch.stack([_mix(audio, side) for side in weights])
    return audio if audio.shape[0] == channels else audio.mean(0, keepdim=True).expand(channels, -1)


def _mix(audio: Tensor, weights: list[float]) -> Tensor:
    """Adds channel by channel: a matrix product would round differently for other block sizes. Shape: [C, T] -> [T]."""
    mixed = torch.zeros_like(audio[0])
    for channel, weight in zip(audio, weights, strict=True):
        mixed += weight / sum(weights) * channel
    return mixed


def describe_channels(present: int, channels: int) -> str | None:
    """What `convert_channels` does, for a message; None if nothing."""
    if present == channels:
        return None
    if present == 1:
        return f"1 channel repeated to {channels}"
    return f"{present} channels mixed to {channels}"
