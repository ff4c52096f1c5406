"""Folders of transformers' `EncodecModel`, read and written; transformers itself is not needed for either."""

import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from codec.atomic_file import atomic_write
from codec.config import CodecConfig
from codec.interop.elu import activation_problem, with_elu
from codec.interop.model_card import model_card
from codec.interop.onnx.silent_lstm import with_silent_lstm, without_silent_lstm
from codec.interop.weights import ForeignModelError, codec_with, read_safetensors, read_torch, translated
from codec.model import Codec
from codec.quantization import ResidualVectorQuantizer

__all__ = ["check_expressible", "export_transformers", "read_transformers"]

# Ours -> theirs, where the values are the same; strides and skip are not among them.
_NAMES = {
    "sample_rate": "sampling_rate",
    "channels": "audio_channels",
    "filters": "num_filters",
    "latent_dim": "hidden_size",
    "kernel_size": "kernel_size",
    "residual_kernel_size": "residual_kernel_size",
    "residual_layers": "num_residual_layers",
    "dilation_base": "dilation_growth_rate",
    "compress": "compress",
    "lstm_layers": "num_lstm_layers",
    "causal": "use_causal_conv",
    "norm": "norm_type",
    "padding": "pad_mode",
    "codebook_size": "codebook_size",
    "bandwidths_kbps": "target_bandwidths",
    "normalize": "normalize",
    "segment_seconds": "chunk_length_s",
    "overlap": "overlap",
}
_FILES = ("model.safetensors", "config.json", "preprocessor_config.json", "README.md")


def read_transformers(folder: Path) -> Codec:
    """The codec in a folder with config.json and model.safetensors (or pytorch_model.bin).

    Raises:
        ForeignModelError: It is another model, damaged, or has a setting that a codec of this project cannot express.
    """
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = _config_of(settings)
        weights = translated(_state(folder))
        layers = without_silent_lstm(weights.layers)
        if layers is not weights.layers:
            weights, config = weights._replace(layers=layers), config | {"lstm_layers": 0}
        return codec_with(weights, config | {"num_codebooks": len(weights.embed)})
    except ForeignModelError as error:
        raise error if str(folder) in str(error) else ForeignModelError(f"{folder}: {error}") from error
    except (ValueError, TypeError) as error:
        raise ForeignModelError(f"{folder}: {error}") from error


def _state(folder: Path) -> Any:
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")
    if (folder / "pytorch_model.bin").is_file():
        return read_torch(folder / "pytorch_model.bin")
    raise ForeignModelError("beside config.json, model.safetensors or pytorch_model.bin is wanted")


def _config_of(settings: Any) -> dict[str, Any]:
    """Settings of the codec. What config.json leaves out has transformers' default, which is the 24 kHz model's."""
    if not isinstance(settings, dict) or settings.get("model_type") != "encodec":
        found = settings.get("model_type") if isinstance(settings, dict) else None
        raise ForeignModelError(f"config.json must be of model_type encodec, got {found}")
    kernel, width = settings.get("kernel_size", 7), settings.get("hidden_size", 128)
    same = {"last_kernel_size": (7, kernel), "codebook_dim": (width, width), "trim_right_ratio": (1.0, 1.0)}
    for name, (default, wanted) in same.items():
        found = settings.get(name, default)
        if found != wanted and not (name == "codebook_dim" and found is None):
            raise ForeignModelError(
                f"{name} must be {wanted}, got {found}: codecs of this project have no such setting"
            )
    config = {ours: settings[theirs] for ours, theirs in _NAMES.items() if theirs in settings}
    if config.get("overlap") is None:
        if config.get("segment_seconds") is not None:
            raise ForeignModelError("chunk_length_s is given without overlap, with which transformers cannot encode")
        config.pop("overlap", None)
    ratios = settings.get("upsampling_ratios", (8, 5, 4, 2))
    skip = "conv" if settings.get("use_conv_shortcut", True) else "identity"
    return config | {"strides": tuple(reversed(ratios)), "skip": skip}


def export_transformers(codec: Codec, folder: Path, run: Path | None = None, licence: str | None = None) -> list[Path]:
    """Writes a folder from which `EncodecModel` and `AutoProcessor` load `from_pretrained`, with a model card.

    `EncodecModel` always has an LSTM; a codec without one gets one whose weights are all zero, which adds nothing.
    Its activations are ELUs; a codec with `activation: relu` is exported at a scale at which the two agree to 1e-6.

    Args:
        folder: Made if it is missing; an earlier model in it is replaced.
        run: The folder of the run that trained the codec, which the card then describes.
        licence: Of the weights, as the card states it.

    Returns:
        What was written.

    Raises:
        ForeignModelError: `EncodecModel` cannot express this codec, or the folder holds files of other things by these
            names; nothing was written.
    """
    config = codec.config
    check_expressible(config)
    there = [name for name in _FILES if (folder / name).exists()]
    if there and "config.json" not in there:
        raise ForeignModelError(f"{folder} holds a {there[0]} that is of no exported model: choose another folder")
    card = model_card(codec, run, licence)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "model.safetensors") as temporary:
        save_file(_their_state(with_elu(codec)), temporary, metadata={"format": "pt"})
    settings = (json.dumps(each, indent=2) + "\n" for each in (_their_config(config), _their_preprocessor(config)))
    for name, text in zip(_FILES[1:], (*settings, card), strict=True):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in _FILES]


def check_expressible(config: CodecConfig) -> None:
    """Makes sure that `EncodecModel` can be, and compute, what `config` describes.

    Raises:
        ForeignModelError: It cannot; the message says for which setting, and why.
    """
    norm = (
        "norm is none, and it knows weight_norm and time_group_norm only" if _flat(config)["norm"] == "none" else None
    )
    for problem in (norm, activation_problem(config), _bandwidth_problem(config), _segment_problem(config)):
        if problem:
            raise ForeignModelError(f"transformers' EncodecModel cannot express this codec: {problem}")


def _bandwidth_problem(config: CodecConfig) -> str | None:
    """It has as many codebooks as the highest bandwidth takes, rounding down and without tolerance."""
    if not config.bandwidths_kbps:
        return "bandwidths_kbps is empty, and it needs one to tell the number of codebooks"
    bits_per_second = config.frame_rate_hz * config.bits_per_code
    for bandwidth in config.bandwidths_kbps:
        books = max(1, math.floor(1000 * bandwidth / bits_per_second))
        if books != config.codebooks_for(bandwidth):
            return f"it rounds the {config.codebooks_for(bandwidth)} codebooks of {bandwidth} kbps down to {books}"
    highest = max(config.bandwidths_kbps)
    books = int(1000 * highest // bits_per_second)
    if books != config.num_codebooks:
        return (
            f"num_codebooks is {config.num_codebooks}, and it has as many as the highest of bandwidths_kbps takes, "
            f"{books} for {highest:g} kbps"
        )
    return None


def _segment_problem(config: CodecConfig) -> str | None:
    """Its processor pads audio to n strides and the rest of a segment, so only the last segment may be short."""
    if config.segment_seconds is None:
        return None
    segment = config.segment_samples_or(0)
    stride = max(1, int((1 - config.overlap) * segment))
    if segment > 2 * stride:
        return f"overlap is {config.overlap:g}, and it cannot stack the two short segments that more than 0.5 leaves"
    hop = config.hop_samples
    whole, last = (-(-samples // hop) * hop for samples in (segment, segment - stride or segment))
    if whole > stride + last:
        return (
            f"a segment of {segment} samples is decoded to {whole}, which reaches past the end of the last segment, "
            f"{stride} + {last} samples"
        )
    return None


def _their_config(config: CodecConfig) -> dict[str, Any]:
    # It takes the last bandwidth for the highest.
    ours = _flat(config) | {"bandwidths_kbps": sorted(config.bandwidths_kbps)}
    ours |= {"lstm_layers": max(1, ours["lstm_layers"])}
    return {
        "architectures": ["EncodecModel"],
        "model_type": "encodec",
        **{theirs: ours[name] for name, theirs in _NAMES.items()},
        "upsampling_ratios": list(reversed(ours["strides"])),
        "use_conv_shortcut": ours["skip"] == "conv",
        "last_kernel_size": ours["kernel_size"],
        "codebook_dim": config.latent_dim,
        "trim_right_ratio": 1.0,
        "torch_dtype": "float32",
    }


def _their_preprocessor(config: CodecConfig) -> dict[str, Any]:
    return {
        "feature_extractor_type": "EncodecFeatureExtractor",
        "feature_size": config.channels,
        "sampling_rate": config.sample_rate,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "chunk_length_s": config.segment_seconds,
        "overlap": config.overlap,
    }


def _their_state(codec: Codec) -> dict[str, Tensor]:
    """Weight norm by its old names, which old and new versions of transformers read."""
    layers = {n: tensor.contiguous() for n, tensor in codec.state_dict().items() if not n.startswith("quantizer.")}
    ours = _flat(codec.config)
    if ours["lstm_layers"] == 0:
        places = {"encoder": len(cast(nn.Sequential, codec.encoder.layers)) - 2, "decoder": 1}
        layers = with_silent_lstm(layers, places, ours["filters"] * 2 ** len(ours["strides"]))
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        layers = {name.replace(f"parametrizations.weight.{new}", old): tensor for name, tensor in layers.items()}
    state = layers
    quantizer = codec.quantizer
    assert isinstance(quantizer, ResidualVectorQuantizer)
    for k, embed in enumerate(quantizer.embed):
        book = f"quantizer.layers.{k}.codebook"
        state |= {f"{book}.embed": embed.clone(), f"{book}.inited": quantizer.is_initialized.float().view(1)}
        # Averages that agree with the codes, each as if one vector had been given it.
        state |= {f"{book}.embed_avg": embed.clone(), f"{book}.cluster_size": torch.ones(len(embed))}
    return state


def _flat(config: CodecConfig) -> dict[str, Any]:
    """Settings of codec, network and quantizer in one dict."""
    settings = config.to_dict()
    return settings | settings["network"] | settings["quantizer"]
