"""Reads and writes folders of transformers' `EncodecModel`; transformers itself is not needed."""

import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from codec.atomic_file import write_files
from codec.config import CodecConfig
from codec.interop.dac import codec_of_dac, dac_config, dac_preprocessor, dac_state, is_dac
from codec.interop.elu import activation_problem, with_elu
from codec.interop.model_card import model_card
from codec.interop.silent_lstm import with_silent_lstm, without_silent_lstm
from codec.interop.weights import ForeignModelError, codec_with, read_safetensors, read_torch, translated
from codec.model import Codec
from codec.quantization import ResidualVectorQuantizer

__all__ = ["check_expressible", "export_transformers", "read_transformers"]

# Name of a setting here -> name in transformers, where the values are the same. Strides and skip differ.
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
        ForeignModelError: The model is of another kind, corrupt, or has a setting that this project cannot express.
    """
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(settings, dict) and settings.get("model_type") == "dac":
            return codec_of_dac(settings, _state(folder))
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
    raise ForeignModelError("expected model.safetensors or pytorch_model.bin beside config.json")


def _config_of(settings: Any) -> dict[str, Any]:
    """Settings of the codec. Missing settings have the default of transformers, the 24 kHz model."""
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
            raise ForeignModelError(
                "chunk_length_s is given without overlap: transformers cannot encode with such a model"
            )
        config.pop("overlap", None)
    ratios = settings.get("upsampling_ratios", (8, 5, 4, 2))
    skip = "conv" if settings.get("use_conv_shortcut", True) else "identity"
    return config | {"strides": tuple(reversed(ratios)), "skip": skip}


def export_transformers(codec: Codec, folder: Path, run: Path | None = None, licence: str | None = None) -> list[Path]:
    """Writes a folder from which transformers' models and `AutoProcessor` load `from_pretrained`, with a model card.

    A codec with the network and the quantizer of DAC becomes a `DacModel`, others an `EncodecModel`. An `EncodecModel`
    always has an LSTM; a codec without one gets one whose weights are zero, which is the identity. Its activations are
    ELUs; a codec with `activation: relu` is exported at a scale at which the two agree to 1e-6.

    Args:
        folder: Created if it is missing; an earlier export in it is replaced.
        run: Folder of the run that trained the codec, for the model card.
        licence: Licence of the weights, for the model card.

    Returns:
        The files that were written.

    Raises:
        ForeignModelError: The model there cannot express this codec, or the folder holds other files with these names;
            nothing was written.
        OSError: A file cannot be written; nothing was written.
    """
    config = codec.config
    if is_dac(codec):
        state, settings = dac_state(codec), (dac_config(codec), dac_preprocessor(codec))
    else:
        check_expressible(config)
        state, settings = _their_state(with_elu(codec)), (_their_config(config), _their_preprocessor(config))
    there = [name for name in _FILES if (folder / name).exists()]
    if there and "config.json" not in there:
        raise ForeignModelError(f"{folder} holds a {there[0]} that was not exported from here: choose another folder")
    card = model_card(codec, run, licence)
    texts = (*(json.dumps(each, indent=2) + "\n" for each in settings), card)
    contents = (save(state, metadata={"format": "pt"}), *(text.encode() for text in texts))
    return write_files(folder, dict(zip(_FILES, contents, strict=True)))


def check_expressible(config: CodecConfig) -> None:
    """Checks that `EncodecModel` can express this codec.

    Raises:
        ForeignModelError: It cannot; the message names the setting and the reason.
    """
    parts = config.network["name"], config.quantizer["name"]
    if parts != ("SEANet", "ResidualVectorQuantizer"):
        raise ForeignModelError(
            "transformers' EncodecModel cannot express this codec: expected a SEANet and a ResidualVectorQuantizer, "
            f"got {' and '.join(parts)}"
        )
    norm = "norm is none, expected weight_norm or time_group_norm" if config.network["norm"] == "none" else None
    for problem in (norm, activation_problem(config), _bandwidth_problem(config), _segment_problem(config)):
        if problem:
            raise ForeignModelError(f"transformers' EncodecModel cannot express this codec: {problem}")


def _bandwidth_problem(config: CodecConfig) -> str | None:
    """`EncodecModel` has as many codebooks as its highest bandwidth takes, rounded down without tolerance."""
    if not config.bandwidths_kbps:
        return "bandwidths_kbps is empty, expected at least one: the highest defines the number of codebooks"
    bits_per_second = config.frame_rate_hz * config.bits_per_code
    for bandwidth in config.bandwidths_kbps:
        count = max(1, math.floor(1000 * bandwidth / bits_per_second))
        if count != config.codebooks_for(bandwidth):
            return f"it rounds the {config.codebooks_for(bandwidth)} codebooks of {bandwidth} kbps down to {count}"
    highest = max(config.bandwidths_kbps)
    count = int(1000 * highest // bits_per_second)
    if count != config.num_codebooks:
        return (
            f"num_codebooks is {config.num_codebooks}, expected as many as the highest of bandwidths_kbps takes, "
            f"{count} for {highest:g} kbps"
        )
    return None


def _segment_problem(config: CodecConfig) -> str | None:
    """The processor pads audio to n strides and the rest of a segment, so only the last segment may be short."""
    if config.segment_seconds is None:
        return None
    segment = config.segment_samples_or(0)
    stride = max(1, int((1 - config.overlap) * segment))
    if segment > 2 * stride:
        return f"overlap is {config.overlap:g}, expected at most 0.5: more leaves two short segments"
    hop = config.hop_samples
    whole, last = (-(-samples // hop) * hop for samples in (segment, segment - stride or segment))
    if whole > stride + last:
        return (
            f"a segment of {segment} samples is decoded to {whole}, which reaches past the end of the last segment, "
            f"{stride} + {last} samples"
        )
    return None


def _their_config(config: CodecConfig) -> dict[str, Any]:
    # transformers takes the last bandwidth for the highest.
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
    """State dict with the old names of weight norm, which old and new versions of transformers read."""
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
        prefix = f"quantizer.layers.{k}.codebook"
        state |= {f"{prefix}.embed": embed.clone(), f"{prefix}.inited": quantizer.is_initialized.float().view(1)}
        # Averages that agree with the codes: every code counts as one vector.
        state |= {f"{prefix}.embed_avg": embed.clone(), f"{prefix}.cluster_size": torch.ones(len(embed))}
    return state


def _flat(config: CodecConfig) -> dict[str, Any]:
    """Settings of codec, network and quantizer in one dict."""
    settings = config.to_dict()
    return settings | settings["network"] | settings["quantizer"]
