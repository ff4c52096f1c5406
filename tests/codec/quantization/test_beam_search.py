"""Beam search against all possible sums, and through files and streams."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from codec import Codec
from codec.cli import main
from codec.model import EncodedSegment
from codec.quantization.beam_search import BeamSearch
from codec.quantization.nearest import NearestSearch
from codec.streaming import StreamingEncoder
from coding_inputs import save_tiny, tiny_codec


def error(latent: Tensor, embed: Tensor, codes: Tensor) -> float:
    """Mean squared distance of the sums from a latent [1, D, F]."""
    sums = torch.stack([codebook[index] for codebook, index in zip(embed, codes[0], strict=True)]).sum(0)
    return (latent[0].t() - sums).square().sum(1).mean().item()


def test_with_beams_for_all_partial_sums_the_result_is_optimal() -> None:
    embed, latent = torch.randn(3, 4, 8), torch.randn(1, 8, 50)
    combinations = torch.tensor(list(itertools.product(range(4), repeat=3)))
    sums = torch.stack([codebook[index] for codebook, index in zip(embed, combinations.t(), strict=True)]).sum(0)
    nearest = torch.cdist(latent[0].t().double(), sums.double(), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    assert torch.equal(BeamSearch(embed, 16)(latent)[0].t(), combinations[nearest])


def test_one_beam_is_the_greedy_search() -> None:
    embed, latent = torch.randn(4, 32, 8), torch.randn(2, 8, 200)
    assert torch.equal(BeamSearch(embed, 1)(latent), NearestSearch(embed)(latent))


def test_more_beams_have_a_smaller_error() -> None:
    embed, latent = torch.randn(6, 32, 16) * 0.8 ** torch.arange(6)[:, None, None], torch.randn(1, 16, 500)
    errors = [error(latent, embed, BeamSearch(embed, beams)(latent)) for beams in (1, 4, 16)]
    assert errors[1] < 0.95 * errors[0]
    assert errors[2] < 0.98 * errors[1]


@pytest.mark.parametrize("frames", [1, 7, 64])
def test_codes_do_not_depend_on_the_number_of_frames(frames: int) -> None:
    search = BeamSearch(torch.randn(3, 64, 16), 4)
    latent = torch.randn(1, 16, 300)
    whole = search(latent)
    assert torch.equal(torch.cat([search(piece) for piece in latent.split(frames, -1)], -1), whole)
    assert torch.equal(search(latent.view(1, 16, 3, 100).transpose(1, 2)[0])[1], whole[0, :, 100:200])


def test_copies_of_a_code_do_not_fill_the_beams() -> None:
    embed, latent = torch.randn(3, 16, 8), torch.randn(1, 8, 100)
    copied = embed.repeat(1, 4, 1)
    assert torch.equal(BeamSearch(copied, 4)(latent), BeamSearch(embed, 4)(latent))


def searching(codec: Codec, beams: int) -> Codec:
    codec.quantizer.beams = beams
    return codec


def test_streams_and_files_have_the_same_codes(tmp_path: Path) -> None:
    """Files have the same size, and a decoder without beam search gets a smaller error."""
    codec = tiny_codec("causal")
    audio = torch.rand(1, 1, 24_000) - 0.5
    soundfile.write(tmp_path / "in.wav", audio[0, 0].numpy(), 24_000, subtype="FLOAT")
    greedy, beams = (searching(codec, n).encode_segments(audio)[0].codes for n in (1, 4))
    assert not torch.equal(greedy, beams)
    latent, embed = codec.encode_latent(audio), codec.quantizer.embed
    assert error(latent, embed, beams) < error(latent, embed, greedy)
    stream = StreamingEncoder(codec)
    assert torch.equal(torch.cat([*map(stream.push, audio.split(1000, -1)), stream.flush()], -1), beams)

    model = save_tiny("causal", tmp_path)
    sizes = []
    for n, codes in ((1, greedy), (4, beams)):
        encoded, decoded = tmp_path / f"{n}.ecdc", tmp_path / f"{n}.wav"
        options = ["--model", model, "--coding", "fixed", "--beams", str(n)]
        assert main(["encode", str(tmp_path / "in.wav"), "-f", "-o", str(encoded), *options]) == 0
        assert main(["decode", str(encoded), "-f", "-o", str(decoded), "--model", model]) == 0
        expected = codec.decode_segments([EncodedSegment(codes, None)], 24_000)[0, 0]
        np.testing.assert_allclose(soundfile.read(decoded)[0], expected.clamp(-1, 1).numpy(), atol=2**-15)
        sizes.append(encoded.stat().st_size)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("beams", ["0", "-3", "65"])
def test_beams_out_of_range_are_one_line(beams: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny("causal", tmp_path)
    source = tmp_path / "in.wav"
    soundfile.write(source, np.zeros(100), 24_000)
    output = tmp_path / "out.ecdc"
    assert main(["encode", str(source), "-o", str(output), "--model", model, "--beams", beams]) == 1
    assert f"--beams must be 1 to 64, got {beams}" in capsys.readouterr().err
    assert not output.exists()
