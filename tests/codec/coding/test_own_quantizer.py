"""Files of a codec whose quantizer comes from outside the packages and has codebooks of different sizes."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codec import Codec, SEANet
from codec.bitstream import BitstreamError, BitstreamHeader, BitstreamWriter, Block
from codec.coding import PreparedCodec, decode_audio, encode_audio, open_encoded

SIZES = (5, 3)


class ScalarQuantizer(nn.Module):
    """Rounds each latent dimension to one of a few values; without parameters and without training."""

    beams = 1
    latent_dim = len(SIZES)
    codebook_sizes = SIZES
    initialized = True

    def settings(self) -> dict[str, Any]:
        return {}

    def encode(self, latent: Tensor, num_codebooks: int | None = None) -> Tensor:
        codes = [((latent[:, k].clamp(-1, 1) + 1) / 2 * (size - 1)).round() for k, size in enumerate(SIZES)]
        return torch.stack(codes[:num_codebooks], 1).long()

    def search(self, num_codebooks: int | None = None) -> Callable[[Tensor], Tensor]:
        return lambda latent: self.encode(latent, num_codebooks)

    def decode(self, codes: Tensor) -> Tensor:
        latent = codes.new_zeros(len(codes), len(SIZES), codes.shape[-1], dtype=torch.float32)
        for k in range(codes.shape[1]):
            latent[:, k] = codes[:, k] / (SIZES[k] - 1) * 2 - 1
        return latent

    def inference_state(self) -> dict[str, Tensor]:
        return {}

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return iter(())


class Noise:
    """An audio source of noise, and an audio sink."""

    name, sample_rate, channels = "noise", 800, 1
    clipped = samples = 0

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.layout = None
        self._blocks = [torch.randn(3000, 1).numpy(), torch.zeros(0, 1).numpy()]

    def read(self) -> Any:
        return self._blocks.pop(0)

    def close(self) -> None: ...

    def write(self, audio: Tensor) -> None:
        self.samples += audio.shape[-1]


@pytest.fixture
def prepared() -> PreparedCodec:
    network = SEANet(filters=2, strides=(2, 4), latent_dim=len(SIZES), lstm_layers=0)
    return PreparedCodec(Codec(network, ScalarQuantizer(), sample_rate=800, bandwidths_kbps=(0.6,)).eval())


@pytest.mark.parametrize("coding", ["fixed", "adaptive"])
def test_a_file_round_trips(prepared: PreparedCodec, coding: str) -> None:
    source = Noise()
    audio = torch.from_numpy(source._blocks[0].T.copy())[None]
    file = io.BytesIO()
    encode_audio(prepared, source, file, 0.6, coding=coding)
    file.seek(0)
    reader = open_encoded(prepared, file, "file")
    (block,) = reader.blocks()
    codes = torch.from_numpy(block.codes.copy())
    assert torch.equal(codes, prepared.codec.encode_segments(audio)[0].codes[0])
    assert codes.amax(1).tolist() <= [size - 1 for size in SIZES]
    file.seek(0)
    sink = Noise()
    assert decode_audio(prepared, open_encoded(prepared, file, "file"), sink).seconds == 3000 / 800
    assert sink.samples == 3000


def test_a_code_outside_its_codebook_is_refused(prepared: PreparedCodec) -> None:
    config = prepared.codec.config
    header = BitstreamHeader(prepared.fingerprint, 800, 1, 2, config.bits_per_code, 8, False, 800, 1)
    file = io.BytesIO()
    writer = BitstreamWriter(file, header)
    writer.write(Block(torch.tensor([[4, 4], [2, 3]]).numpy(), None))
    writer.finish(16)
    file.seek(0)
    with pytest.raises(BitstreamError, match="codebook 1 has 3 codes, but a block has the code 3"):
        decode_audio(prepared, open_encoded(prepared, file, "file"), Noise())
