"""The rule for channels."""

import pytest
import torch

from codec.audio.channels import convert_channels, describe_channels

HALF_POWER = 2**-0.5


def test_stereo_to_mono_is_the_mean_and_mono_is_repeated() -> None:
    stereo = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert convert_channels(stereo, 2) is stereo
    assert convert_channels(stereo, 1).tolist() == [[2.0, 4.0]]
    assert convert_channels(stereo[:1], 2).tolist() == [[1.0, 2.0], [1.0, 2.0]]


# ITU-R BS.775-3, Annex 4, for WAVE's order of channels.
LAYOUTS = {
    3: ([1, 0, HALF_POWER], [0, 1, HALF_POWER]),
    4: ([1, 0, HALF_POWER, 0], [0, 1, 0, HALF_POWER]),
    5: ([1, 0, HALF_POWER, HALF_POWER, 0], [0, 1, HALF_POWER, 0, HALF_POWER]),
    6: ([1, 0, HALF_POWER, 0, HALF_POWER, 0], [0, 1, HALF_POWER, 0, 0, HALF_POWER]),
    7: ([1, 0, HALF_POWER, 0, 0.5, HALF_POWER, 0], [0, 1, HALF_POWER, 0, 0.5, 0, HALF_POWER]),
    8: (
        [1, 0, HALF_POWER, 0, HALF_POWER, 0, HALF_POWER, 0],
        [0, 1, HALF_POWER, 0, 0, HALF_POWER, 0, HALF_POWER],
    ),
}


@pytest.mark.parametrize("present", LAYOUTS)
def test_known_layouts_are_mixed_as_the_standard_says(present: int) -> None:
    weights = torch.tensor(LAYOUTS[present])
    weights = weights / weights.sum(1, keepdim=True)
    torch.testing.assert_close(convert_channels(torch.eye(present), 2), weights)
    torch.testing.assert_close(convert_channels(torch.eye(present), 1), weights.mean(0, keepdim=True))


@pytest.mark.parametrize("present", range(1, 12))
@pytest.mark.parametrize("channels", [1, 2])
def test_no_mix_exceeds_the_loudest_channel(present: int, channels: int) -> None:
    audio = torch.ones(present, 5)
    torch.testing.assert_close(convert_channels(audio, channels), torch.ones(channels, 5))


def test_unknown_layouts_are_averaged() -> None:
    audio = torch.arange(9.0)[:, None]
    assert convert_channels(audio, 1).tolist() == [[4.0]]
    assert convert_channels(audio, 2).tolist() == [[4.0], [4.0]]


def test_more_than_two_channels_are_not_invented() -> None:
    with pytest.raises(ValueError, match="2 channels cannot be converted to 3"):
        convert_channels(torch.zeros(2, 5), 3)
    assert convert_channels(torch.zeros(1, 5), 3).shape == (3, 5)


def test_conversions_are_described() -> None:
    assert describe_channels(2, 2) is None
    assert describe_channels(1, 2) == "1 channel repeated to 2"
    assert describe_channels(6, 1) == "6 channels mixed to 1"
