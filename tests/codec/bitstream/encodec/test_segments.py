"""Files of the encodec package: equal to those that the package itself writes and reads."""

from typing import Any

import pytest
import torch
from encodec.model import EncodecModel, LMModel

from codec.bitstream.encodec.header import PACKAGE_CONFIGS, EncodecHeader
from codec.bitstream.encodec.language_model import EncodecLM
from encodec_package import language_models, package_models, package_reads, package_writes, random_frames, read, written

NAMES = list(PACKAGE_CONFIGS)


@pytest.fixture(scope="module")
def models() -> dict[str, EncodecModel]:
    return package_models()


@pytest.fixture(scope="module")
def lms() -> dict[str, tuple[LMModel, EncodecLM]]:
    return language_models()


def assert_same_file(
    model: EncodecModel, samples: int, num_codebooks: int, lm: tuple[LMModel, EncodecLM] | None
) -> None:
    """Both writers write the same file, and both readers read its codes."""
    theirs, ours = lm or (None, None)
    frames = random_frames(model, samples, num_codebooks)
    data = package_writes(model, frames, samples, theirs)
    assert written(model.name, frames, samples, ours) == data
    reader, blocks = read(data, ours)
    assert reader.samples == samples
    if model.segment is None:
        assert torch.equal(torch.cat([codes for codes, _ in blocks], -1), frames[0][0][0])
    else:
        assert len(blocks) == len(frames) == reader.header.segments
        for (codes, gain), (expected, expected_gain) in zip(blocks, frames, strict=True):
            assert torch.equal(codes, expected[0])
            assert expected_gain is not None
            assert gain == float(expected_gain)
    if reader.header.package_can_read():
        found, _ = package_reads(model, data, theirs)
        for (codes, gain), (expected, expected_gain) in zip(found, frames, strict=True):
            assert torch.equal(codes, expected)
            assert gain is None if expected_gain is None else torch.equal(gain, expected_gain.view(1))


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("encodec_24khz", [1, 319, 320, 321, 6_720, 24_000, 24_001, 200_001]),
        # From 47521 samples on there are two segments.
        ("encodec_48khz", [1, 321, 6_720, 47_520, 47_521, 47_700, 48_000, 48_001, 95_040, 95_041, 150_000]),
    ],
)
def test_files_equal_the_package(models: dict[str, EncodecModel], name: str, lengths: list[int]) -> None:
    for samples in lengths:
        assert_same_file(models[name], samples, 4, None)


@pytest.mark.parametrize("name", NAMES)
def test_files_of_every_bandwidth_equal_the_package(models: dict[str, EncodecModel], name: str) -> None:
    for bandwidth in models[name].target_bandwidths:
        assert_same_file(models[name], 5_000, PACKAGE_CONFIGS[name].codebooks_for(bandwidth), None)


@pytest.mark.parametrize(
    ("name", "samples", "num_codebooks"),
    [
        ("encodec_24khz", 8_000, 2),
        ("encodec_24khz", 2_000, 32),
        ("encodec_48khz", 47_600, 2),
        ("encodec_48khz", 9, 16),
    ],
)
def test_compressed_files_equal_the_package(
    models: dict[str, EncodecModel], lms: dict[str, Any], name: str, samples: int, num_codebooks: int
) -> None:
    assert_same_file(models[name], samples, num_codebooks, lms[name])


@pytest.mark.long
def test_a_compressed_file_longer_than_the_context_equals_the_package(
    models: dict[str, EncodecModel], lms: dict[str, Any]
) -> None:
    assert_same_file(models["encodec_24khz"], 270 * 320, 1, lms["encodec_24khz"])


def test_lengths_that_the_package_itself_cannot_read_are_known(models: dict[str, EncodecModel]) -> None:
    lengths = {
        "encodec_24khz": [320, 321, 6_719, 6_720, 6_721, 13_440, 24_000],
        "encodec_48khz": [320, 6_720, 47_520 + 6_720, 47_520, 47_680, 47_681, 47_840, 47_841, 48_000, 100_000],
    }
    unread = set()
    for name, some in lengths.items():
        for samples in some:
            data = package_writes(models[name], random_frames(models[name], samples, 2), samples, None)
            try:
                package_reads(models[name], data, None)
                reads = True
            except (EOFError, RuntimeError):
                reads = False
                unread.add((name, samples))
            assert EncodecHeader(name, samples, 2, False).package_can_read() == reads, (name, samples)
            assert len(read(data)[1]) > 0  # our reader reads them
    assert {("encodec_24khz", 6_720), ("encodec_48khz", 47_700 - 19)} <= unread
