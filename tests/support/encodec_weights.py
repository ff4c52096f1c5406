"""Random models of other packages, and a `Codec` with the same weights.

The encodec package (Défossez et al. 2022) and transformers' `EncodecModel` are two independent references of the
architecture. Nothing is downloaded.
"""

import logging
import warnings
from typing import Any

import pytest
import torch
from encodec.model import EncodecModel
from encodec.modules import SEANetDecoder, SEANetEncoder
from encodec.quantization import ResidualVectorQuantizer as EncodecQuantizer
from torch import Tensor, nn

from codec import Codec, CodecConfig
from codec.interop.weights import codec_with, translated
from codec_inputs import flat

__all__ = [
    "TINY",
    "assert_same_codes",
    "assert_ties",
    "codec_with_weights_of",
    "encodec_model",
    "fill_codebooks",
    "randomize",
    "transformers_model",
]

# A few thousand weights: hop 6, 100 frames per second, 4 codebooks of 16 codes, 0.4 kbps each, one odd stride.
TINY: dict[str, Any] = {
    "sample_rate": 600,
    "filters": 4,
    "strides": (2, 3),
    "latent_dim": 6,
    "num_codebooks": 4,
    "codebook_size": 16,
    "bandwidths_kbps": (0.4, 0.8, 1.6),
}


def encodec_model(config: Any) -> EncodecModel:
    """The encodec package's model of this config, in eval mode."""
    config = flat(config)
    layers = {
        "channels": config.channels,
        "dimension": config.latent_dim,
        "n_filters": config.filters,
        "n_residual_layers": config.residual_layers,
        "ratios": list(reversed(config.strides)),  # decoder order
        "norm": config.norm,
        "kernel_size": config.kernel_size,
        "last_kernel_size": config.kernel_size,
        "residual_kernel_size": config.residual_kernel_size,
        "dilation_base": config.dilation_base,
        "causal": config.causal,
        "pad_mode": config.padding,
        "true_skip": config.skip == "identity",
        "compress": config.compress,
        "lstm": config.lstm_layers,
    }
    with warnings.catch_warnings():
        # encodec 0.1.1 uses a deprecated weight_norm of torch, which computes the same weight.
        warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm` is deprecated", FutureWarning)
        encoder, decoder = SEANetEncoder(**layers), SEANetDecoder(**layers)
    quantizer = EncodecQuantizer(dimension=config.latent_dim, n_q=config.num_codebooks, bins=config.codebook_size)
    model = EncodecModel(
        encoder,
        decoder,
        quantizer,
        list(config.bandwidths_kbps),
        config.sample_rate,
        config.channels,
        normalize=config.normalize,
        segment=config.segment_seconds,
        overlap=config.overlap,
    )
    for layer in model.quantizer.vq.layers:
        layer._codebook.inited.fill_(1)  # otherwise the first call runs k-means
    randomize(model)
    return model.eval()


def transformers_model(config: Any) -> nn.Module:
    """transformers' `EncodecModel` of this config, in eval mode."""
    config = flat(config)
    # Imported here, because the import takes seconds and few tests need it.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import EncodecConfig
    from transformers import EncodecModel as TransformersModel

    model = TransformersModel(
        EncodecConfig(
            target_bandwidths=list(config.bandwidths_kbps),
            sampling_rate=config.sample_rate,
            audio_channels=config.channels,
            normalize=config.normalize,
            chunk_length_s=config.segment_seconds,
            overlap=None if config.segment_seconds is None else config.overlap,
            hidden_size=config.latent_dim,
            num_filters=config.filters,
            num_residual_layers=config.residual_layers,
            upsampling_ratios=list(reversed(config.strides)),
            norm_type=config.norm,
            kernel_size=config.kernel_size,
            last_kernel_size=config.kernel_size,
            residual_kernel_size=config.residual_kernel_size,
            dilation_growth_rate=config.dilation_base,
            use_causal_conv=config.causal,
            pad_mode=config.padding,
            compress=config.compress,
            num_lstm_layers=config.lstm_layers,
            codebook_size=config.codebook_size,
            use_conv_shortcut=config.skip == "conv",
        )
    )
    randomize(model)
    return model.eval()


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Changes every parameter, so that no two of a kind are equal (initially, gains are 1 and biases 0)."""
    for parameter in model.parameters():
        parameter.add_(0.1 * parameter.std(correction=0) * torch.randn_like(parameter))
        parameter.add_(0.02 * torch.randn_like(parameter))


@torch.no_grad()
def fill_codebooks(model: nn.Module, audio: torch.Tensor) -> None:
    """Sets the codes of every codebook near the residuals of this audio, so that many of them are used.

    All codebooks have the same distances between codes. encodec adds |x|^2 to each distance. For close codes, rounding
    would then decide which is the nearest.
    """
    residual = model.encoder(audio).transpose(1, 2).flatten(0, 1)
    spread = 0.3 * residual.std(0).mean()
    layers = model.quantizer.vq.layers if hasattr(model.quantizer, "vq") else model.quantizer.layers
    for layer in layers:
        embed = (layer._codebook if hasattr(layer, "_codebook") else layer.codebook).embed
        drawn = residual[torch.randint(len(residual), (len(embed),))]
        embed.copy_(0.8 * drawn + spread * torch.randn_like(embed))
        residual = residual - embed[torch.cdist(residual, embed).argmin(1)]


def codec_with_weights_of(foreign: nn.Module, config: CodecConfig) -> Codec:
    """A `Codec` with the weights of an `encodec_model` or a `transformers_model` of the same config.

    Raises:
        ForeignModelError: A weight is missing, unknown or of another shape.
    """
    return codec_with(translated(foreign.state_dict()), vars(flat(config)))


def assert_same_codes(codec: Codec, audio: Tensor, ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Codes of all segments of `audio` are equal, except for ties, see `assert_ties`.

    Shape: audio [B, C, T], ours and theirs [B, K, F] of each segment.
    """
    length, stride = codec.config.segment_samples_or(audio.shape[-1]), codec.config.segment_stride(audio.shape[-1])
    assert len(ours) == len(theirs)
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if not torch.equal(mine, other):
            latent = codec.encode_latent(audio[..., i * stride : i * stride + length])
            assert_ties(latent, codec.quantizer.inference_state()["embed"], mine, other)


def assert_ties(latent: Tensor, embed: Tensor, ours: Tensor, theirs: Tensor) -> None:
    """Asserts that codes differ in few frames, and there first in a codebook with two equally near codes.

    The packages compute distances with a matrix product, whose rounding depends on the machine.

    Shape: latent [B, D, F], embed [K, size, D], ours [B, K, F], theirs [B, K, F].
    """
    frames = (ours != theirs).any(1).nonzero().tolist()
    assert len(frames) <= 0.1 * len(ours) * ours.shape[2]
    for signal, frame in frames:
        mine, other = ours[signal, :, frame], theirs[signal, :, frame]
        k = int((mine != other).nonzero()[0])
        residual = latent[signal, :, frame].double() - sum(embed[j, mine[j]].double() for j in range(k))
        squares = [(residual - embed[k, codes[k]]).square().sum().item() for codes in (mine, other)]
        assert squares[0] == pytest.approx(squares[1], abs=1e-5 * latent[signal, :, frame].square().sum().item())
