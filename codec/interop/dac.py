"""DAC of transformers (`DacModel`): import of a local folder, and export."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from codec.interop.weights import ForeignModelError
from codec.model import Codec
from codec.network import DACNetwork
from codec.network.activations import Snake
from codec.quantization import FactorizedQuantizer

__all__ = ["codec_of_dac", "dac_config", "dac_preprocessor", "dac_state", "is_dac"]

_DEFAULTS = {
    "encoder_hidden_size": 64, "downsampling_ratios": [2, 4, 8, 8], "decoder_hidden_size": 1536, "n_codebooks": 9,
    "codebook_size": 1024, "codebook_dim": 8, "sampling_rate": 16000,
}  # fmt: skip


def is_dac(codec: Codec) -> bool:
    """Whether the codec has the network and the quantizer of DAC."""
    return (codec.config.network["name"], codec.config.quantizer["name"]) == ("DACNetwork", "FactorizedQuantizer")


@torch.no_grad()
def codec_of_dac(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> Codec:
    """The codec of a config.json of model_type dac and its weights, in eval mode.

    Decoded audio is that of `DacModel` if all strides are even. With an odd stride `DacModel` returns a few samples
    less than its frames have, and the last samples differ.

    Raises:
        ForeignModelError: A weight is missing, unknown, of the wrong shape or not finite.
        ValueError: A setting is out of range.
    """
    found = {name: settings.get(name, default) for name, default in _DEFAULTS.items()}
    strides, filters = found["downsampling_ratios"], found["encoder_hidden_size"]
    network = DACNetwork(encoder_filters=filters, decoder_filters=found["decoder_hidden_size"], strides=strides,
                         latent_dim=filters * 2 ** len(strides))  # fmt: skip
    sizes = {"num_codebooks": "n_codebooks", "codebook_size": "codebook_size", "codebook_dim": "codebook_dim"}
    quantizer = FactorizedQuantizer(
        latent_dim=network.latent_dim, **{ours: found[theirs] for ours, theirs in sizes.items()}
    )
    codec = Codec(network, quantizer, sample_rate=found["sampling_rate"])
    rest = dict(state)
    for name, tensor, owner, attribute in _weights(codec):
        theirs = rest.pop(name, None)
        if theirs is None or theirs.shape != tensor.shape:
            shape = "none" if theirs is None else list(theirs.shape)
            raise ForeignModelError(f"expected the weight {name} of shape {list(tensor.shape)}, got {shape}")
        if not theirs.isfinite().all():
            raise ForeignModelError(f"the weight {name} is not finite")
        value = theirs.float()
        if isinstance(owner, nn.Linear) and attribute == "weight":
            value = value[..., 0]
        # With weight norm the assignment sets length and direction.
        normed = attribute == "weight" and is_parametrized(owner, attribute)
        setattr(owner, attribute, value if normed else nn.Parameter(value))
    if rest:
        raise ForeignModelError(f"the weight {next(iter(rest))} is none of a DacModel with this config.json")
    return codec.eval()


def dac_state(codec: Codec) -> dict[str, Tensor]:
    """The weights of a `DacModel`."""
    return {name: tensor.detach().clone().contiguous() for name, tensor, *_ in _weights(codec)}


def dac_config(codec: Codec) -> dict[str, Any]:
    """The config.json of a `DacModel`.

    Raises:
        ForeignModelError: A `DacModel` cannot express the codec.
    """
    net, quantizer, size = codec.config.network, codec.config.quantizer, codec.config.codebook_size
    width = net["encoder_filters"] * 2 ** len(net["strides"])
    for name, found, expected in (("channels", net["channels"], 1), ("latent_dim", net["latent_dim"], width),
                                  ("normalize", codec.config.normalize, False),
                                  ("segment_seconds", codec.config.segment_seconds, None),
                                  ("codebook_size", size, 1 << size.bit_length() - 1)):  # fmt: skip
        if found != expected:
            raise ForeignModelError(f"transformers' DacModel needs {name} {expected}, got {found}")
    return {
        "architectures": ["DacModel"], "model_type": "dac", "torch_dtype": "float32",
        "encoder_hidden_size": net["encoder_filters"], "downsampling_ratios": net["strides"],
        "decoder_hidden_size": net["decoder_filters"], "sampling_rate": codec.config.sample_rate,
        "n_codebooks": quantizer["num_codebooks"], "codebook_size": quantizer["codebook_size"],
        "codebook_dim": quantizer["codebook_dim"],
    }  # fmt: skip


def dac_preprocessor(codec: Codec) -> dict[str, Any]:
    """The preprocessor_config.json of a `DacModel`."""
    return {"feature_extractor_type": "DacFeatureExtractor", "feature_size": 1, "padding_side": "right",
            "padding_value": 0.0, "hop_length": codec.config.hop_samples,
            "sampling_rate": codec.config.sample_rate}  # fmt: skip


def _weights(codec: Codec) -> Iterator[tuple[str, Tensor, nn.Module, str]]:
    """Their name, value in their shape, and our module and attribute, of every weight."""
    strides = len(codec.config.network["strides"])
    for role, module in (("encoder", codec.encoder), ("decoder", codec.decoder)):
        ours = [m for m in module.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d | Snake)]
        for name, layer in zip(_layer_names(role, strides), ours, strict=True):
            for attribute in ("alpha",) if isinstance(layer, Snake) else ("weight", "bias"):
                yield f"{role}.{name}.{attribute}", getattr(layer, attribute), layer, attribute
    assert isinstance(codec.quantizer, FactorizedQuantizer)
    for k, codebook in enumerate(codec.quantizer):
        prefix = f"quantizer.quantizers.{k}"
        for name, linear in (("in_proj", codebook.to_code), ("out_proj", codebook.from_code)):
            yield f"{prefix}.{name}.weight", linear.weight[..., None], linear, "weight"
            yield f"{prefix}.{name}.bias", linear.bias, linear, "bias"
        yield f"{prefix}.codebook.weight", codebook.codes, codebook, "codes"


def _layer_names(role: str, strides: int) -> Iterator[str]:
    """Names of the convolutions and activations in the order of their use."""
    units = [f"res_unit{i}.{layer}" for i in (1, 2, 3) for layer in ("snake1", "conv1", "snake2", "conv2")]
    block = [*units, "snake1", "conv1"] if role == "encoder" else ["snake1", "conv_t1", *units]
    yield "conv1"
    for i in range(strides):
        yield from (f"block.{i}.{name}" for name in block)
    yield from ("snake1", "conv2")
