"""`codec export --to onnx` of the network at the frame rate: onnxruntime computes what the codec computes."""

from pathlib import Path

import pytest
import torch

from codec import Codec
from codec.interop.onnx.export import export_onnx
from codec.network import ISTFTNetwork
from codec.quantization import ResidualVectorQuantizer
from onnx_inputs import Exported, assert_same_audio, assert_same_codes


def tiny_codec(channels: int, noise_channels: int = 0) -> Codec:
    torch.manual_seed(0)
    network = ISTFTNetwork(
        channels=channels, hop_samples=20, latent_dim=8, encoder_window_samples=80, encoder_width=12,
        encoder_depth=2, encoder_look_ahead=1, decoder_window_samples=60, decoder_width=12, decoder_depth=2,
        decoder_noise_channels=noise_channels,
    )  # fmt: skip
    quantizer = ResidualVectorQuantizer(latent_dim=8, num_codebooks=4, codebook_size=16)
    codec = Codec(network, quantizer, sample_rate=8000).eval()
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
        codec.quantizer.initialize(codec.encoder(0.1 * torch.randn(1, channels, 20_000))[0].t())
    return codec


@pytest.mark.parametrize("channels", [1, 2])
@torch.no_grad()
def test_whole_signals_of_any_length(channels: int, tmp_path: Path) -> None:
    codec = tiny_codec(channels)
    export_onnx(codec, tmp_path)
    exported = Exported(tmp_path)
    used = set()
    for samples in (1, 19, 20, 21, 999):
        audio = 0.1 * torch.randn(2, channels, samples)
        latent = codec.encoder(audio)
        codes = codec.quantizer.encode(latent)
        assert_same_codes(codec, audio, exported.run("encoder.onnx", audio)[0], codes)
        assert_same_audio(exported.run("decoder.onnx", codes)[0], codec.decoder(codec.quantizer.decode(codes)))
        used |= set(codes.flatten().tolist())
    assert len(used) == 16


def test_a_network_that_looks_ahead_has_no_steps(tmp_path: Path) -> None:
    written = export_onnx(tiny_codec(1), tmp_path)
    assert [path.name for path in written] == ["encoder.onnx", "decoder.onnx", "onnx.json"]
    assert Exported(tmp_path).about["streaming"].startswith("None: a step returns the frames that it is given")


def test_a_decoder_with_noise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a decoder with noise has no ONNX form: decoder_noise_channels must be 0"):
        export_onnx(tiny_codec(1, noise_channels=2), tmp_path)
    assert not list(tmp_path.iterdir())
