"""The codec: encoder, residual vector quantizer, decoder."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from codec.atomic_file import atomic_write
from codec.config import CodecConfig
from codec.network.seanet import Decoder, Encoder
from codec.quantization.residual import QuantizerOutput, ResidualVectorQuantizer
from codec.streaming.codec import StreamingDecoder, StreamingEncoder, can_stream

__all__ = ["Codec", "CodecOutput", "EncodedSegment", "ModelFileError"]

# Averages that only training needs; an exported model leaves them out.
_TRAINING_BUFFERS = ("quantizer.cluster_size", "quantizer.embed_sum", "quantizer.updates")
# What a causal codec is given at a time on a CPU, over the signals of a batch: the activations of so many samples stay
# in the processor's caches. Shorter steps than so many frames cost more than that saves.
_STEP_SAMPLES = 1 << 15
_STEP_FRAMES = 12


class ModelFileError(ValueError):
    """An exported model cannot be read; the message says what was found."""


class CodecOutput(NamedTuple):
    """Result of a training pass."""

    audio: Tensor  # [B, C, T] the reconstruction
    latent: Tensor  # [B, D, F] before quantization
    quantized: QuantizerOutput | None  # None when the latents were passed through


class EncodedSegment(NamedTuple):
    """One independently decodable stretch of audio."""

    codes: Tensor  # [B, K, F] int64
    scale: Tensor | None  # [B] the RMS the segment was divided by, if the codec normalizes


class Codec(nn.Module):
    """EnCodec-style neural audio codec (Défossez et al. 2022).

    Args:
        config: The architecture.
        codebook_decay, kmeans_iterations, revive_below, energy_exponent: How the codebooks learn; see
            `ResidualVectorQuantizer`.
    """

    def __init__(
        self,
        config: CodecConfig,
        *,
        codebook_decay: float = 0.99,
        kmeans_iterations: int = 50,
        revive_below: float = 0.1,
        energy_exponent: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = ResidualVectorQuantizer(
            config.latent_dim,
            config.codebooks,
            config.codebook_size,
            decay=codebook_decay,
            kmeans_iterations=kmeans_iterations,
            revive_below=revive_below,
            energy_exponent=energy_exponent,
        )
        self.decoder = Decoder(config)

    def forward(self, audio: Tensor, codebooks: int | None = None, quantize: bool = True) -> CodecOutput:
        """Reconstructs one batch of segments, for training.

        Args:
            codebooks: Use only the first so many books (quantizer dropout); None for all.
            quantize: False passes the latents through, for the time before the codebooks have started.

        Shape: audio [B, C, T] -> CodecOutput.
        """
        self._check_audio(audio)
        normalized, scale = self._normalize(audio)
        latent = self.encoder(normalized)
        quantized = None
        decoder_input = latent
        if quantize:
            quantized = self.quantizer(latent, codebooks)
            decoder_input = quantized.latent
        estimate = self.decoder(decoder_input)[..., : audio.shape[-1]]
        return CodecOutput(_rescale(estimate, scale), latent, quantized)

    def encode_latent(self, audio: Tensor) -> Tensor:
        """What the encoder makes of `audio`, before quantization.

        Shape: audio [B, C, T] -> latent [B, D, F].
        """
        self._check_audio(audio)
        latent: Tensor = self.encoder(self._normalize(audio)[0])
        return latent

    @torch.no_grad()
    def encode(self, audio: Tensor, bandwidth_kbps: float | None = None) -> list[EncodedSegment]:
        """Codes of `audio`, one entry per segment; a codec without segments gives one.

        A causal codec on a CPU is given long audio in steps (`codec.streaming.codec`).

        Args:
            bandwidth_kbps: Rate to code at, None for the codec's highest.

        Shape: audio [B, C, T].

        Raises:
            ValueError: The audio has the wrong shape, or the bandwidth is out of reach.
        """
        self._check_audio(audio)
        samples = audio.shape[-1]
        step_frames = self._step_frames(audio)
        if step_frames and samples > step_frames * self.config.hop_samples:
            encoder = StreamingEncoder(self, bandwidth_kbps)
            steps = audio.split(step_frames * self.config.hop_samples, -1)
            return [EncodedSegment(torch.cat([*map(encoder.push, steps), encoder.flush()], -1), None)]
        length = self.config.segment_samples_or(samples)
        starts = range(0, max(1, samples), self.segment_stride(samples))
        return [self.encode_segment(audio[..., start : start + length], bandwidth_kbps) for start in starts]

    @torch.no_grad()
    def encode_segment(self, audio: Tensor, bandwidth_kbps: float | None = None) -> EncodedSegment:
        """Codes of one segment by itself.

        Shape: audio [B, C, T] -> codes [B, K, F].

        Raises:
            ValueError: As in `encode`.
        """
        self._check_audio(audio)
        books = self.config.codebooks if bandwidth_kbps is None else self.config.codebooks_for(bandwidth_kbps)
        normalized, scale = self._normalize(audio)
        codes = self.quantizer.encode(self.encoder(normalized), books)
        return EncodedSegment(codes, None if scale is None else scale.flatten())

    @torch.no_grad()
    def decode(self, segments: list[EncodedSegment], samples: int | None = None) -> Tensor:
        """Audio from the segments that `encode` returned.

        Args:
            samples: Cut the result to this length; otherwise it is as long as the frames.

        Shape: codes [B, K, F] each -> audio [B, C, samples].
        """
        if self.config.segment_seconds is not None:
            audio = _overlap_add([self.decode_segment(segment) for segment in segments], self.segment_stride(0))
        elif len(segments) != 1:
            raise ValueError(f"a codec without segments decodes exactly one, got {len(segments)}")
        else:
            codes = segments[0].codes
            step_frames = self._step_frames(codes)
            if step_frames and codes.shape[-1] > step_frames:
                decoder = StreamingDecoder(self)
                audio = torch.cat([*map(decoder.push, codes.split(step_frames, -1)), decoder.flush()], -1)
            else:
                audio = self.decode_segment(segments[0])
        return audio if samples is None else audio[..., :samples]

    @torch.no_grad()
    def decode_segment(self, segment: EncodedSegment) -> Tensor:
        """Audio of one segment by itself.

        Shape: codes [B, K, F] -> audio [B, C, F * hop].
        """
        audio = self.decoder(self.quantizer.decode(segment.codes))
        return _rescale(audio, None if segment.scale is None else segment.scale.view(-1, 1, 1))

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes the model for inference: safetensors, with the config as JSON in its header.

        Args:
            dtype: Of the numbers in the file; `load` returns float32. With float16 the file is half as long, and the
                codec that is loaded from it, whose weights are rounded, is another one than this.
        """
        weights = {
            name: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
            for name, tensor in self._inference_weights().items()
        }
        # One entry: safetensors writes several in a random order, and equal models are to be equal files.
        description = {"config": self.config.to_dict(), "fingerprint": _fingerprint(self.config, weights)}
        metadata = {"codec": json.dumps(description)}
        with atomic_write(Path(path)) as temporary:
            save_file(weights, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Codec":
        """Reads what `save` wrote, in eval mode.

        Raises:
            ModelFileError: The file is missing, damaged, or not a codec's.
        """
        if not Path(path).is_file():
            raise ModelFileError(f"no model file at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelFileError(f"{path} is damaged or no safetensors file ({error})") from error
        if "codec" not in metadata:
            raise ModelFileError(f"{path} describes no codec: it is not a model saved by this project")
        try:
            description = json.loads(metadata["codec"])
            codec = cls(CodecConfig.from_dict(description["config"]))
            fresh = {name: codec.get_buffer(name) for name in _TRAINING_BUFFERS}
            codec.load_state_dict(weights | fresh)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            # torch lists every key that differs, a line each under a heading: the last says enough.
            reason = str(error).splitlines()[-1].strip()[:200]
            raise ModelFileError(f"{path} does not fit its own config: {reason}") from error
        found, wanted = codec.fingerprint(), description.get("fingerprint")
        if found != wanted:
            raise ModelFileError(
                f"{path} is damaged: its contents have the fingerprint {found}, it was saved as {wanted}"
            )
        codec.quantizer.embed_sum.copy_(codec.quantizer.embed)
        return codec.eval()

    def fingerprint(self) -> str:
        """16 hex digits that any change of config or inference weights alters."""
        return _fingerprint(self.config, self._inference_weights())

    def _inference_weights(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state_dict().items() if name not in _TRAINING_BUFFERS}

    def _normalize(self, audio: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.config.normalize:
            return audio, None
        # RMS of the mono mix; the floor keeps silence finite.
        scale = audio.mean(1, keepdim=True).square().mean(2, keepdim=True).sqrt() + 1e-8
        return audio / scale, scale

    def segment_stride(self, samples: int) -> int:
        """Samples from the start of one segment to the next; `samples` if the codec codes all of them in one piece."""
        length = self.config.segment_samples_or(samples)
        if self.config.segment_seconds is None:
            return max(1, length)
        return max(1, int((1 - self.config.overlap) * length))

    def _step_frames(self, batch: Tensor) -> int | None:
        """Frames that a batch of so many signals is given at a time; None for all of them.

        Shape: batch [B, ...].
        """
        if batch.device.type != "cpu" or not can_stream(self.config):
            return None
        return max(_STEP_FRAMES, _STEP_SAMPLES // (max(1, batch.shape[0]) * self.config.hop_samples))

    def _check_audio(self, audio: Tensor) -> None:
        if audio.dim() != 3 or audio.shape[1] != self.config.channels or audio.shape[2] == 0:
            raise ValueError(
                f"expected audio [B, {self.config.channels}, T] with T > 0 for a codec of {self.config.channels} "
                f"channel(s), got {list(audio.shape)}"
            )


def _fingerprint(config: CodecConfig, weights: dict[str, Tensor]) -> str:
    """Of what `load` makes of these weights, whose numbers are float32."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        values = tensor.detach().float() if tensor.is_floating_point() else tensor
        digest.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _rescale(audio: Tensor, scale: Tensor | None) -> Tensor:
    return audio if scale is None else audio * scale


def triangle(samples: int, device: torch.device) -> Tensor:
    """Weights by which overlapping segments are cross-faded, as in encodec.

    Shape: -> [samples], positive throughout.
    """
    ramp = torch.linspace(0, 1, samples + 2, device=device)[1:-1]
    return 0.5 - (ramp - 0.5).abs()


def _overlap_add(pieces: list[Tensor], stride: int) -> Tensor:
    """Joins segments that overlap, cross-fading linearly.

    Each piece is weighted by a triangle over the length of the first, and the sum divided by the sum of the
    weights: where two pieces overlap the quotients are w1 / (w1 + w2) and w2 / (w1 + w2), where only one
    lies they are 1.

    Shape: pieces [B, C, T_i], piece i starting at i * stride -> [B, C, T].
    """
    weights = triangle(max(piece.shape[-1] for piece in pieces), pieces[0].device)
    total = max(i * stride + piece.shape[-1] for i, piece in enumerate(pieces))
    audio = pieces[0].new_zeros(*pieces[0].shape[:-1], total)
    weight = audio.new_zeros(total)
    for i, piece in enumerate(pieces):
        span = slice(i * stride, i * stride + piece.shape[-1])
        audio[..., span] += weights[: piece.shape[-1]] * piece
        weight[span] += weights[: piece.shape[-1]]
    return audio / weight
