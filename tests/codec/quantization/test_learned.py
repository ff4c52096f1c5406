"""What every quantizer with learned weights offers: files, streams, batches, usage, training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codec import Codec, SEANet
from codec.interop.onnx.export import export_onnx
from codec.model_file import fingerprint, load_model, save_model
from codec.quantization import FactorizedQuantizer, FiniteScalarQuantizer, SimVQ
from codec.quantization.code_counts import CodeCounts
from codec.streaming import StreamingDecoder, StreamingEncoder
from onnx_inputs import Exported, assert_same_audio

DIM, RATE, HOP = 6, 800, 8
KINDS: dict[str, Callable[[], Any]] = {
    "factorized": lambda: FactorizedQuantizer(latent_dim=DIM, num_codebooks=4, codebook_size=11, codebook_dim=3),
    "simvq": lambda: SimVQ(latent_dim=DIM, num_codebooks=4, codebook_size=11),
    "fsq": lambda: FiniteScalarQuantizer(latent_dim=DIM, levels=(5, 3), num_groups=2, num_codebooks=4),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def quantizer_of(kind: str) -> Any:
    torch.manual_seed(0)
    return KINDS[kind]()


def latent(batch: int = 2, frames: int = 30, seed: int = 0) -> Tensor:
    return torch.randn(batch, DIM, frames, generator=torch.Generator().manual_seed(seed))


def codec_of(kind: str) -> Codec:
    torch.manual_seed(0)
    network = SEANet(filters=2, strides=(4, 2), latent_dim=DIM, lstm_layers=0, padding="constant")
    codec = Codec(network, quantizer_of(kind), sample_rate=RATE).eval()
    with torch.no_grad():
        latents = codec.encoder(noise(4000))
        for parameter in codec.encoder.layers[-1].parameters():  # latents of variance 1 use many codes
            parameter.mul_(1 / latents.std())
    return codec


def noise(samples: int) -> Tensor:
    return 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(samples))


@kinds
@torch.no_grad()
def test_codes_of_any_number_of_codebooks_decode(kind: str) -> None:
    quantizer, x = quantizer_of(kind), latent()
    codes = quantizer.encode(x)
    assert codes.dtype == torch.int64
    for count in (1, 2, 3, 4):
        output = quantizer(x, count)
        assert torch.equal(output.codes, codes[:, :count])
        assert torch.equal(quantizer.encode(x, count), codes[:, :count])
        assert output.commitment.shape == (count,)
        torch.testing.assert_close(quantizer.decode(codes[:, :count]), output.latent, rtol=1e-4, atol=1e-5)
    assert (codes.amax((0, 2)) < torch.tensor(quantizer.codebook_sizes)).all()
    with pytest.raises(ValueError, match="at most 4 codebooks, got 5"):
        quantizer.decode(torch.zeros(1, 5, 3, dtype=torch.int64))


@kinds
@torch.no_grad()
def test_codes_do_not_depend_on_the_batch(kind: str) -> None:
    quantizer, x = quantizer_of(kind), latent(3, 500)
    codes, search = quantizer.encode(x), quantizer.search()
    assert torch.equal(torch.cat([search(part) for part in x.split(1, -1)], -1), codes)
    assert torch.equal(search(x[1:2]), codes[1:2])


@kinds
def test_under_bfloat16_the_codes_stay(kind: str) -> None:
    quantizer, x = quantizer_of(kind), latent()
    expected = quantizer(x)
    with torch.autocast("cpu", torch.bfloat16):
        output = quantizer(x)
        assert torch.equal(quantizer.encode(x), expected.codes)
    assert torch.equal(output.codes, expected.codes)
    torch.testing.assert_close(output.latent, expected.latent)


@kinds
def test_every_weight_learns_and_the_error_falls(kind: str) -> None:
    quantizer, x = quantizer_of(kind), latent(8, 100)
    optimizer = torch.optim.Adam(quantizer.parameters(), 1e-2)
    errors = []
    for _ in range(60):
        output = quantizer(x)
        error = (output.latent - x).square().mean()
        (error + 0.25 * output.commitment.mean()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in quantizer.parameters())
        optimizer.step()
        optimizer.zero_grad()
        errors.append(error.item())
    assert errors[-1] < 0.8 * errors[0]


@kinds
@pytest.mark.parametrize("x", [torch.zeros(1, DIM, 5), 1e6 * torch.ones(1, DIM, 5)], ids=["silence", "loud"])
def test_degenerate_latents(kind: str, x: Tensor) -> None:
    quantizer = quantizer_of(kind)
    x = x.clone().requires_grad_()
    output = quantizer(x)
    (output.latent.sum() + output.commitment.sum()).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert output.latent.isfinite().all()


@kinds
@torch.no_grad()
def test_model_files(kind: str, tmp_path: Path) -> None:
    codec = codec_of(kind)
    save_model(codec, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == codec.config
    assert fingerprint(loaded) == fingerprint(codec)
    codec.quantizer.update(codec.quantizer(latent()))
    assert fingerprint(loaded) == fingerprint(codec), "counts are no part of the model"
    assert torch.equal(loaded.encode(noise(999), RATE), codec.encode(noise(999), RATE))
    codec.quantizer.load_state_dict(quantizer_of(kind).state_dict())
    state = codec.quantizer.inference_state()
    with pytest.raises(ValueError, match="expected a quantizer with"):
        codec.quantizer.load_inference_state({name: tensor[..., :-1] for name, tensor in state.items()})


@kinds
@torch.no_grad()
def test_streams_equal_the_whole(kind: str) -> None:
    codec = codec_of(kind)
    audio = noise(40 * HOP + 3)
    codes = codec.encode(audio, RATE)
    encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
    assert torch.equal(torch.cat([*map(encoder.push, audio.split(13, -1)), encoder.flush()], -1), codes)
    decoded = torch.cat([*map(decoder.push, codes.split(3, -1)), decoder.flush()], -1)
    torch.testing.assert_close(decoded, codec.decode(codes), rtol=1e-4, atol=1e-6)
    assert len(codes.unique()) > 5


@kinds
@torch.no_grad()
def test_onnx(kind: str, tmp_path: Path) -> None:
    codec = codec_of(kind)
    export_onnx(codec, tmp_path)
    exported, audio = Exported(tmp_path), noise(40 * HOP + 3)
    codes = codec.encode(audio, RATE)
    assert torch.equal(exported.run("encoder.onnx", audio)[0], codes)
    for count in (1, 3, 4):
        assert_same_audio(exported.run("decoder.onnx", codes[:, :count])[0], codec.decode(codes[:, :count]))
    assert "encoder_stream.onnx" in exported.about["graphs"]


@kinds
def test_usage(kind: str) -> None:
    quantizer = quantizer_of(kind)
    size = quantizer.codebook_sizes[0]
    torch.testing.assert_close(quantizer.usage().perplexity, torch.full((4,), float(size)))
    for _ in range(2000):
        quantizer.counts.update(torch.zeros(1, 2, 10, dtype=torch.int64))
    usage = quantizer.usage()
    assert usage.perplexity[:2].tolist() == pytest.approx([1, 1], abs=1e-3)
    assert usage.perplexity[2:].tolist() == pytest.approx([size, size])
    assert usage.dead_fraction.tolist() == pytest.approx([1 - 1 / size] * 2 + [0, 0])


def test_counts_of_codebooks_of_different_sizes() -> None:
    counts = CodeCounts([2, 4], decay=0.5)
    usage = counts.usage()
    assert usage.perplexity.tolist() == pytest.approx([2, 4])
    assert usage.bits.tolist() == pytest.approx([1, 2])
    counts.update(torch.tensor([[[0, 0], [3, 2]]]))
    torch.testing.assert_close(counts.shares, torch.tensor([[0.75, 0.25, 0, 0], [0.125, 0.125, 0.375, 0.375]]))
