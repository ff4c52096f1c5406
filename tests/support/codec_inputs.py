"""Codecs with a SEANet and a residual vector quantizer from one flat list of settings."""

from types import SimpleNamespace
from typing import Any

from codec import Codec, CodecConfig, SEANet, make_codec
from codec.model_file import seanet_settings

__all__ = ["flat", "seanet_codec", "seanet_config", "seanet_of"]


def seanet_codec(**settings: Any) -> Codec:
    """A codec with random weights; names of settings as in `Codec`, `SEANet` and `ResidualVectorQuantizer`."""
    return make_codec(seanet_settings(**settings))


def seanet_config(**settings: Any) -> CodecConfig:
    """The config of such a codec."""
    return seanet_codec(**settings).config


def seanet_of(config: CodecConfig) -> SEANet:
    """The network of a codec with a SEANet."""
    return SEANet(**{name: value for name, value in config.network.items() if name != "name"})


def flat(config: CodecConfig) -> SimpleNamespace:
    """All settings of codec, network and quantizer as attributes."""
    settings = config.to_dict()
    parts = settings.pop("network") | settings.pop("quantizer")
    del parts["name"]
    return SimpleNamespace(**settings, **parts)
