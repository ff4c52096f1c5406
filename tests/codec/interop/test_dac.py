"""DAC of transformers: import, export and ONNX, with random weights of the package as reference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from codec import Codec
from codec.interop import export_transformers, read_foreign
from codec.interop.onnx.export import export_onnx
from codec.interop.weights import ForeignModelError
from codec.network import DACNetwork
from codec.quantization import FactorizedQuantizer
from onnx_inputs import Exported, assert_same_audio

SETTINGS: dict[str, Any] = {
    "encoder_hidden_size": 4, "decoder_hidden_size": 12, "downsampling_ratios": [2, 4], "n_codebooks": 3,
    "codebook_size": 16, "codebook_dim": 3, "sampling_rate": 800,
}  # fmt: skip


def reference(**changes: Any) -> Any:
    from transformers import DacConfig, DacModel  # takes a second to import

    torch.manual_seed(0)
    model = DacModel(DacConfig(**SETTINGS | changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "alpha" in name:
                parameter.uniform_(0.3, 3)
            elif isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Conv1d | nn.ConvTranspose1d):
                parameter.normal_(std=0.2)
    return model


def imported(model: Any, folder: Path) -> Codec:
    model.save_pretrained(folder)
    foreign = read_foreign(folder)
    assert foreign.origin == "transformers' DacModel"
    return foreign.codec


def noise(samples: int) -> Tensor:
    return 0.3 * torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(samples))


@torch.no_grad()
def test_the_imported_model_is_that_of_transformers(tmp_path: Path) -> None:
    model = reference()
    codec = imported(model, tmp_path)
    assert (codec.config.hop_samples, codec.config.latent_dim, codec.config.sample_rate) == (8, 16, 800)
    assert codec.config.kbps_per_codebook == 0.4
    audio = noise(400)
    expected = model.encode(audio).audio_codes
    codes = codec.encode(audio, 800)
    assert torch.equal(codes, expected)
    assert len(codes.unique()) > 8
    torch.testing.assert_close(
        codec.decode(codes), model.decode(audio_codes=codes).audio_values[:, None], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(codec.encode_latent(audio), model.encoder(audio), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_with_an_odd_stride_only_the_end_differs(tmp_path: Path) -> None:
    model = reference(downsampling_ratios=[2, 5])
    codec = imported(model, tmp_path)
    codes = codec.encode(noise(400), 800)
    theirs = model.decode(audio_codes=codes).audio_values[:, None]
    ours = codec.decode(codes)
    assert ours.shape[-1] == 400
    assert theirs.shape[-1] < 400
    same = 400 - 2 * 45 - 45  # layers reach less than 45 samples at each of two rates
    torch.testing.assert_close(ours[..., :same], theirs[..., :same], rtol=0, atol=1e-5)


@torch.no_grad()
def test_any_length_is_coded_in_whole_frames(tmp_path: Path) -> None:
    codec = imported(reference(), tmp_path)
    for samples in (1, 7, 8, 9, 100):
        codes = codec.encode(noise(samples), 800)
        assert codes.shape[-1] == -(-samples // 8)
        assert codec.decode(codes).shape[-1] == 8 * codes.shape[-1]
        padded = nn.functional.pad(noise(samples), (0, -samples % 8))
        assert torch.equal(codec.encode(padded, 800), codes)


@torch.no_grad()
def test_an_exported_codec_is_that_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoProcessor, DacModel

    torch.manual_seed(1)
    network = DACNetwork(encoder_filters=4, decoder_filters=12, strides=[4, 2], latent_dim=16)
    quantizer = FactorizedQuantizer(latent_dim=16, num_codebooks=2, codebook_size=8, codebook_dim=3)
    codec = Codec(network, quantizer, sample_rate=800).eval()
    written = export_transformers(codec, tmp_path)
    assert {path.name for path in written} == {
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "README.md",
    }
    model, info = DacModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    audio = noise(240)
    processor = AutoProcessor.from_pretrained(tmp_path)
    inputs = processor(raw_audio=audio[0, 0].numpy(), sampling_rate=800, return_tensors="pt")
    codes = codec.encode(audio, 800)
    assert torch.equal(model.eval().encode(inputs["input_values"]).audio_codes, codes[:1])
    theirs = model.decode(audio_codes=codes).audio_values[:, None]
    torch.testing.assert_close(codec.decode(codes), theirs, rtol=0, atol=1e-5)
    again = read_foreign(tmp_path).codec
    assert again.config.network == codec.config.network
    for name, weight in codec.state_dict().items():
        np.testing.assert_allclose(again.state_dict()[name], weight, rtol=1e-5, atol=1e-7, err_msg=name)
    assert "DacModel" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("network", "quantizer", "message"),
    [
        ({"channels": 2}, {}, "needs channels 1, got 2"),
        ({"latent_dim": 12}, {}, "needs latent_dim 16, got 12"),
        ({}, {"codebook_size": 11}, "needs codebook_size 8, got 11"),
    ],
)
def test_what_transformers_cannot_express_is_refused(
    network: dict[str, int], quantizer: dict[str, int], message: str, tmp_path: Path
) -> None:
    net = DACNetwork(**{"encoder_filters": 4, "decoder_filters": 8, "strides": [2, 2], "latent_dim": 16} | network)
    vq = FactorizedQuantizer(**{"latent_dim": net.latent_dim, "codebook_size": 8} | quantizer)
    with pytest.raises(ForeignModelError, match=message):
        export_transformers(Codec(net, vq, sample_rate=800), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = reference()
    model.decoder.conv1.weight.data[0, 0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ForeignModelError, match=r"the weight decoder\.conv1\.weight is not finite"):
        read_foreign(tmp_path)


@torch.no_grad()
def test_onnx(tmp_path: Path) -> None:
    codec = imported(reference(downsampling_ratios=[2, 5]), tmp_path / "model")
    export_onnx(codec, tmp_path)
    exported = Exported(tmp_path)
    for samples in (1, 19, 200):
        audio = noise(samples)
        codes = codec.encode(audio, 800)
        assert torch.equal(exported.run("encoder.onnx", audio)[0], codes)
        assert_same_audio(exported.run("decoder.onnx", codes)[0], codec.decode(codes))
