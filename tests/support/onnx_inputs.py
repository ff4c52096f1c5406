"""Codecs to export, clips to code, and exported files that onnxruntime runs as `onnx.json` describes."""

import json
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from codec import Codec, CodecConfig
from codec.audio import AudioReader
from codec_inputs import flat, seanet_codec, seanet_config

__all__ = ["Exported", "assert_same_audio", "assert_same_codes", "configured_codec", "held_out", "spread_codec"]

ROOT = Path(__file__).parents[2]


class Exported:
    """A folder of ONNX files.

    Attributes:
        about: What onnx.json says.
        sessions: One for every file.
    """

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.about: dict[str, Any] = json.loads((folder / "onnx.json").read_text(encoding="utf-8"))
        self.sessions = {
            name: onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in self.about["graphs"]
        }

    def run(self, name: str, *inputs: Tensor) -> list[Tensor]:
        given = {
            tensor["name"]: x.numpy()
            for tensor, x in zip(self.about["graphs"][name]["inputs"], inputs, strict=True)
        }  # fmt: skip
        return [torch.from_numpy(y) for y in self.sessions[name].run(None, given)]

    def zeros(self, name: str, batch: int) -> dict[str, np.ndarray]:
        """The states of a new stream."""
        states = self.about["graphs"][name]["states"]
        return {s["name"]: np.zeros([batch, *s["shape"][1:]], s["dtype"]) for s in states}

    def step(self, name: str, x: Tensor, states: dict[str, np.ndarray]) -> tuple[Tensor, dict[str, np.ndarray]]:
        graph = self.about["graphs"][name]
        wanted = [graph["outputs"][0]["name"], *(state["next"] for state in graph["states"])]
        y, *after = self.sessions[name].run(wanted, {graph["inputs"][0]["name"]: x.numpy()} | states)
        return torch.from_numpy(y), dict(zip(states, after, strict=True))

    def stream(self, name: str, x: Tensor, steps: list[int], step_samples: int) -> Tensor:
        """All of `x` in steps of these numbers of frames. The first is as long as required, the last has the rest.

        Args:
            step_samples: Length of a frame of `x`.
        """
        fewest = self.about["graphs"][name]["first_step_frames"]
        states, pieces, position = self.zeros(name, len(x)), [], 0
        for frames in chain([max(fewest, steps[0])], cycle(steps[1:] or steps)):
            y, states = self.step(name, x[..., position : position + frames * step_samples], states)
            pieces.append(y)
            position += frames * step_samples
            if position >= x.shape[-1]:
                break
        return torch.cat(pieces, -1)


@torch.no_grad()
def spread_codec(config: CodecConfig, clips: list[Tensor]) -> Codec:
    """A codec whose latents vary more than those of a fresh encoder, with codes near the latents of the clips.

    So few decisions of the quantizer are close, and the decoded audio depends on the codes.
    """
    torch.manual_seed(1)
    codec = seanet_codec(**vars(flat(config)), kmeans_iterations=5).eval()
    for name, parameter in codec.named_parameters():
        if name.endswith(("conv.weight", "weight.original0")):
            parameter *= 2
    latents = [codec.encode_latent(clip[..., : config.segment_samples_or(clip.shape[-1])])[0].t() for clip in clips]
    codec.quantizer.initialize(torch.cat(latents))
    return codec


def configured_codec(name: str, **changes: Any) -> tuple[Codec, list[Tensor]]:
    """The codec of configs/codec/NAME.yaml, and 2 s of each held-out clip at its rate."""
    cfg = OmegaConf.create({"codec": OmegaConf.load(ROOT / "configs" / "codec" / f"{name}.yaml")})
    codec: Codec = instantiate(cfg.codec, _convert_="all")
    config = seanet_config(**vars(flat(codec.config)) | changes)
    clips = [clip[..., : 2 * config.sample_rate] for clip in held_out(config)]
    return spread_codec(config, clips), clips


def held_out(config: CodecConfig) -> list[Tensor]:
    """Shape: [1, C, T] each."""
    paths = sorted(path for path in (ROOT / "data/clips/held_out").glob("*/*") if path.suffix in {".ogg", ".flac"})
    assert len(paths) == 10
    return [
        torch.cat(list(AudioReader(path, config.sample_rate, config.channels).blocks()), -1)[None] for path in paths
    ]


def assert_same_codes(codec: Codec, audio: Tensor, codes: Tensor, expected: Tensor) -> None:
    """Equal, except after a codebook in which float32 cannot tell two codes apart.

    Convolutions of two libraries differ in those bits, and among a hundred thousand decisions there is such a tie.
    """
    assert codes.shape == expected.shape
    assert codes.dtype == torch.int64
    if torch.equal(codes, expected):
        return
    latent = codec.encode_latent(audio).detach().double()
    books = codec.quantizer.embed.double()
    for b, f in (codes != expected).any(1).nonzero().tolist():
        k = int((codes[b, :, f] != expected[b, :, f]).nonzero()[0])
        residual = latent[b, :, f] - sum(books[i, codes[b, i, f]] for i in range(k))
        near, far = sorted(float((residual - books[k, c[b, k, f]]).square().sum()) for c in (codes, expected))
        assert far - near < 1e-6 * (latent[b, :, f].norm() + books[k].norm(dim=1).max()) ** 2


def assert_same_audio(audio: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of full scale, or of a higher peak: the resolution of float32."""
    torch.testing.assert_close(audio, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))
