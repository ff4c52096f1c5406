"""The rule for channels, and that all that reads audio follows it."""

from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from audio_bytes import noise
from codec.audio import AudioFile, AudioReader
from codec.audio.channels import convert_channels, describe_channels
from codec.coding import PreparedCodec
from codec.coding.encode import encode_codes
from codec.evaluation import METRICS
from codec.evaluation.coders import Coded, Coder
from codec.evaluation.rate_distortion import evaluate_folder
from codec_inputs import seanet_codec
from data import SegmentDataset, scan_folder

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


def test_named_channels_are_mixed_by_their_names() -> None:
    audio = torch.eye(3)
    left, right = convert_channels(audio, 2, ("FL", "FC", "FR"))
    torch.testing.assert_close(left, torch.tensor([1, HALF_POWER, 0]) / (1 + HALF_POWER))
    torch.testing.assert_close(right, torch.tensor([0, HALF_POWER, 1]) / (1 + HALF_POWER))
    assert convert_channels(torch.eye(2), 1, ("SL", "SR")).tolist() == [[0.5, 0.5]]
    # Channels of one side only, or names of another number of channels, have no stereo mix: the mean.
    for names in (("FL", "BL", "SL"), ("FL", "FR")):
        torch.testing.assert_close(convert_channels(audio, 2, names), torch.full((2, 3), 1 / 3))


@pytest.fixture
def six_channels(tmp_path: Path) -> tuple[Path, Tensor]:
    """A folder with one file of 5.1 audio, and its stereo mix."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    soundfile.write(folder / "a.wav", noise(6000, 6), 24_000, subtype="FLOAT")
    audio = torch.from_numpy(soundfile.read(folder / "a.wav", dtype="float32")[0].T)
    return folder, convert_channels(audio, 2)


def test_training_mixes_six_channels(six_channels: tuple[Path, Tensor]) -> None:
    folder, mixed = six_channels
    dataset = SegmentDataset(scan_folder(folder), 24_000, 2, mixed.shape[1] / 24_000)
    assert torch.equal(dataset[0].audio, mixed)


def test_coding_mixes_six_channels(six_channels: tuple[Path, Tensor], tmp_path: Path) -> None:
    folder, mixed = six_channels
    codec = seanet_codec(channels=2, sample_rate=24_000, filters=2, strides=(2, 4), latent_dim=8, num_codebooks=2)
    codec.quantizer.initialize(codec.encode_latent(mixed[None])[0].t().detach())
    prepared = PreparedCodec(codec.eval())
    kbps = codec.config.bandwidths_kbps[-1]
    soundfile.write(tmp_path / "mixed.wav", mixed.T.numpy(), 24_000, subtype="FLOAT")
    of_six, of_mixed = (
        torch.cat(list(encode_codes(prepared, AudioFile(path), kbps)), -1)
        for path in (folder / "a.wav", tmp_path / "mixed.wav")
    )
    assert torch.equal(of_six, of_mixed)
    assert len(of_six.unique()) > 4


def test_evaluation_mixes_six_channels_and_has_the_notes_of_coding(tmp_path: Path) -> None:
    audio = noise(6000, 6)
    soundfile.write(tmp_path / "a.wav", 8 * audio, 24_000, subtype="FLOAT")
    mixed = convert_channels(8 * torch.from_numpy(audio.T), 2)
    seen: list[Tensor] = []

    def code(clip: Tensor) -> Coded:
        seen.append(clip)
        return Coded(clip, 1, 1)

    config = seanet_codec(channels=2, sample_rate=24_000, filters=2, strides=(2, 4), latent_dim=8).config
    result = evaluate_folder(tmp_path, [Coder("none", None, code)], config, 1, 1.0, {"si_sdr_db": METRICS["si_sdr_db"]})
    assert torch.equal(seen[0], mixed)
    reader = AudioReader(tmp_path / "a.wav", 24_000, 2)
    list(reader.blocks())
    assert [f"a.wav: {note}" for note in reader.notes] == [note for note in result.notes if "peak" in note]
    assert len(reader.notes) == 1
