"""A network from two others: its modules are theirs, and files, streams, exports and initial weights work with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codec import Codec, SEANet, make_codec
from codec.config import part_settings
from codec.interop.onnx.export import export_onnx
from codec.interop.reading import ForeignModelError
from codec.interop.transformers import export_transformers
from codec.model_file import ModelFileError, fingerprint, load_model, save_model
from codec.network import EncoderDecoder, ISTFTNetwork
from codec.quantization import ResidualVectorQuantizer
from codec.streaming import StreamingDecoder, StreamingEncoder
from codec.training.startup.pca_init import pca_init_
from onnx_inputs import Exported, assert_same_audio, assert_same_codes

HOP, RATE = 20, 800
SEANET: dict[str, Any] = {
    "filters": 4, "strides": [5, 4], "latent_dim": 8, "lstm_layers": 0, "padding": "constant", "activation": "relu",
}  # fmt: skip
ISTFT: dict[str, Any] = {
    "hop_samples": HOP, "latent_dim": 8, "encoder_window_samples": 80, "encoder_width": 12, "encoder_depth": 1,
    "decoder_window_samples": 80, "decoder_width": 12, "decoder_depth": 2, "decoder_look_ahead": 2, "kernel_size": 3,
}  # fmt: skip
PAIRS = {
    "seanet_istft": lambda: EncoderDecoder(encoder=SEANet(**SEANET), decoder=ISTFTNetwork(**ISTFT)),
    "istft_seanet": lambda: EncoderDecoder(encoder=ISTFTNetwork(**ISTFT), decoder=SEANet(**SEANET)),
    "two_seanets": lambda: EncoderDecoder(encoder=SEANet(**SEANET), decoder=SEANet(**SEANET | {"filters": 6})),
}


def noise(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(seed))


def codec_of(network: Any, seed: int = 0) -> Codec:
    """With codes from latents of noise."""
    torch.manual_seed(seed)
    codec = Codec(network, ResidualVectorQuantizer(latent_dim=8, num_codebooks=4, codebook_size=16), sample_rate=RATE)
    with torch.no_grad():
        codec.quantizer.initialize(codec.encoder(noise(8000))[0].t())
    return codec.eval()


@pytest.mark.parametrize("pair", PAIRS)
@torch.no_grad()
def test_encoder_and_decoder_are_those_of_the_two_networks(pair: str) -> None:
    network = PAIRS[pair]()
    assert (network.channels, network.latent_dim, network.hop_samples, network.causal) == (1, 8, HOP, True)
    torch.manual_seed(0)
    encoder, decoder = network.make_encoder(), network.make_decoder()
    torch.manual_seed(0)
    expected = network.encoder.make_encoder(), network.decoder.make_decoder()
    latent = encoder(noise(333))
    assert torch.equal(latent, expected[0](noise(333)))
    assert torch.equal(decoder(latent), expected[1](latent))
    assert decoder(latent).shape == (1, 1, 340)


def test_networks_that_do_not_fit_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^encoder and decoder do not fit each other: .*") as caught:
        EncoderDecoder(encoder=SEANet(**SEANET | {"channels": 2}), decoder=ISTFTNetwork(**ISTFT | {"hop_samples": 40}))
    line = str(caught.value)
    assert "channels is 2 in the encoder and 1 in the decoder" in line
    assert "hop_samples is 20 in the encoder and 40 in the decoder" in line
    assert "latent_dim" not in line


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_one_network_that_is_not_causal_is_enough(role: str) -> None:
    parts = {"encoder": SEANet(**SEANET), "decoder": SEANet(**SEANET)} | {role: SEANet(**SEANET | {"causal": False})}
    network = EncoderDecoder(**parts)
    assert not network.causal
    assert not codec_of(network).config.can_stream


# Files


@pytest.mark.parametrize("pair", PAIRS)
def test_a_model_file_makes_the_same_codec(pair: str, tmp_path: Path) -> None:
    codec = codec_of(PAIRS[pair]())
    save_model(codec, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == codec.config
    assert make_codec(codec.config.to_dict()).config == codec.config
    assert fingerprint(loaded) == fingerprint(codec)
    assert torch.equal(loaded.encode(noise(333), RATE), codec.encode(noise(333), RATE))


def test_a_file_names_no_class_outside_the_table(tmp_path: Path) -> None:
    settings = codec_of(PAIRS["seanet_istft"]()).config.to_dict()
    for part, message in (
        ({"name": "os.system"}, r"unknown decoder 'os.system', expected one of SEANet"),
        ({}, "unknown decoder None"),
        ({"name": "ResidualVectorQuantizer"}, "the settings do not fit EncoderDecoder"),
        ("SEANet", "the settings do not fit EncoderDecoder"),
    ):
        with pytest.raises(ValueError, match=message):
            make_codec(settings | {"network": settings["network"] | {"decoder": part}})
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelFileError):
        load_model(tmp_path / "model.safetensors")


def test_settings_of_one_part() -> None:
    """Those of a composed network and of one that makes both modules can be compared."""
    composed = codec_of(PAIRS["seanet_istft"]()).config.to_dict()
    seanet, istft = (codec_of(net).config.to_dict() for net in (SEANet(**SEANET), ISTFTNetwork(**ISTFT)))
    assert part_settings(composed, "encoder") == part_settings(seanet, "encoder") == seanet["network"]
    assert part_settings(composed, "decoder") == part_settings(istft, "decoder")
    assert {name for name in istft["network"] if name not in part_settings(istft, "decoder")} == {
        "encoder_window_samples", "encoder_width", "encoder_depth", "encoder_look_ahead",
    }  # fmt: skip
    assert part_settings(composed, "quantizer") == seanet["quantizer"]


# Streams


@pytest.mark.parametrize("pair", PAIRS)
@torch.no_grad()
def test_streams_equal_the_whole(pair: str) -> None:
    codec = codec_of(PAIRS[pair]()).double()
    audio = noise(25 * HOP + 7).double()
    whole = codec.quantizer.encode(codec.encoder(audio))
    encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
    codes = torch.cat([*map(encoder.push, audio.split(33, -1)), encoder.flush()], -1)
    assert torch.equal(codes, whole)
    decoded = torch.cat([*map(decoder.push, codes.split(3, -1)), decoder.flush()], -1)
    torch.testing.assert_close(decoded, codec.decoder(codec.quantizer.decode(whole)), rtol=0, atol=1e-12)


@torch.no_grad()
def test_only_the_decoder_looks_ahead() -> None:
    """A causal SEANet needs no later sample. The decoder adds two frames, and those that a window reaches into."""
    codec = codec_of(PAIRS["seanet_istft"]())
    encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
    assert [encoder.push(noise(HOP, seed)).shape[-1] for seed in range(3)] == [1, 1, 1]
    returned = [decoder.push(torch.zeros(1, 4, 1, dtype=torch.int64)).shape[-1] for _ in range(12)]
    added = 2 + (80 - HOP) / 2 / HOP
    assert sum(returned) == (12 - added) * HOP
    assert returned[-1] == HOP


# Export


@torch.no_grad()
def test_onnx_computes_what_the_codec_computes(tmp_path: Path) -> None:
    codec = codec_of(PAIRS["seanet_istft"]())
    export_onnx(codec, tmp_path)
    exported, audio = Exported(tmp_path), noise(333)
    codes = codec.encode(audio, RATE)
    assert_same_codes(codec, audio, exported.run("encoder.onnx", audio)[0], codes)
    assert_same_audio(exported.run("decoder.onnx", codes)[0], codec.decode(codes))
    assert exported.about["streaming"].startswith("None: a step returns the frames that it is given")


@torch.no_grad()
def test_two_seanets_have_onnx_steps(tmp_path: Path) -> None:
    network = EncoderDecoder(encoder=SEANet(**SEANET), decoder=SEANet(**SEANET | {"padding": "reflect"}))
    export_onnx(codec_of(network), tmp_path)
    about = Exported(tmp_path).about
    assert [about["graphs"][f"{side}_stream.onnx"]["first_step_frames"] for side in ("encoder", "decoder")] == [1, 7]
    assert "first_step_frames" in about["streaming"]


def test_transformers_cannot_express_it(tmp_path: Path) -> None:
    with pytest.raises(ForeignModelError, match=r"expected a SEANet .*, got EncoderDecoder and") as caught:
        export_transformers(codec_of(PAIRS["seanet_istft"]()), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# PCA initialization


def test_pca_sets_the_seanet_encoder_and_leaves_another_decoder_random() -> None:
    audio = noise(4000)
    composed, alone = codec_of(PAIRS["seanet_istft"](), seed=1), codec_of(SEANet(**SEANET), seed=1)
    assert composed.encoder.state_dict().keys() == alone.encoder.state_dict().keys()
    random = {name: value.clone() for name, value in composed.decoder.state_dict().items()}
    pca_init_(composed, audio)
    pca_init_(alone, audio)
    torch.testing.assert_close(composed.encode_latent(audio), alone.encode_latent(audio))
    assert all(torch.equal(value, random[name]) for name, value in composed.decoder.state_dict().items())


def test_pca_sets_two_equal_seanets_as_one() -> None:
    audio = noise(4000)
    pair = EncoderDecoder(encoder=SEANet(**SEANET), decoder=SEANet(**SEANET))
    composed, alone = codec_of(pair, seed=1), codec_of(SEANet(**SEANET), seed=1)
    for codec in (composed, alone):
        pca_init_(codec, audio)
    assert torch.equal(composed(audio, quantize=False).audio, alone(audio, quantize=False).audio)


def test_pca_needs_a_seanet_encoder() -> None:
    with pytest.raises(ValueError, match=r"needs a SEANet encoder, got ISTFTNetwork: set trainer.init=random"):
        pca_init_(codec_of(PAIRS["istft_seanet"]()), noise(4000))
