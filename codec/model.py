"""The codec: encoder, quantizer, decoder."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, NamedTuple

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from codec.audio import resample
from codec.config import CodecConfig
from codec.network import Network
from codec.quantization import Quantizer, QuantizerOutput
from codec.quantization.ieee import without_tf32
from codec.ranges import Bandwidth, ProperFraction, SampleRate, SegmentSeconds
from codec.streaming import StreamingDecoder, StreamingEncoder
from codec.streaming.overlap_add import OverlapAdd

__all__ = ["CANCELLED", "Codec", "CodecOutput", "EncodedSegment"]

# A causal codec codes long audio in steps of about this number of samples, over all signals of the batch. On a CPU the
# activations then stay in the processor's caches. Steps of fewer frames cost more than that saves. On other devices a
# step is large enough for them and bounds the memory, to about 2 GB with 32 filters.
_STEP_SAMPLES = 1 << 15
_DEVICE_STEP_SAMPLES = 1 << 22
_MIN_STEP_FRAMES = 12
CANCELLED = 0.1  # RMS of the mono mix relative to that of the channels, below which the mix is no measure of the level


class CodecOutput(NamedTuple):
    """Result of a training pass."""

    audio: Tensor  # [B, C, T] the reconstruction
    latent: Tensor  # [B, D, F] before quantization
    quantized: QuantizerOutput | None  # None if the latents were passed through


class EncodedSegment(NamedTuple):
    """One independently decodable segment of audio."""

    codes: Tensor  # [B, K, F] int64
    gain: Tensor | None  # [B] the RMS that the segment was divided by, if the codec normalizes


class Codec(nn.Module):
    """Neural audio codec (EnCodec, Défossez et al. 2022).

    Args:
        network: Encoder and decoder, such as `SEANet()`.
        quantizer: Such as `ResidualVectorQuantizer()`; an `nn.Module` of the same `latent_dim`.
        sample_rate, bandwidths_kbps, normalize, segment_seconds, overlap: See `CodecConfig`. `bandwidths_kbps` of
            None offers the bitrates of 1, 2, 4 ... codebooks, and of all.

    Attributes:
        config: What files and tools need to know about the codec.

    Raises:
        ValueError: A value is out of range, or the parts do not fit each other.
    """

    quantizer: Quantizer

    def __init__(
        self,
        network: Network,
        quantizer: Quantizer,
        *,
        sample_rate: SampleRate = 24_000,
        bandwidths_kbps: Annotated[Sequence[Bandwidth], MinLen(1)] | None = None,
        normalize: bool = False,
        segment_seconds: SegmentSeconds | None = None,
        overlap: ProperFraction = 0.01,
    ) -> None:
        super().__init__()
        if quantizer.latent_dim != network.latent_dim:
            raise ValueError(
                f"the quantizer's latent_dim must be the network's, {network.latent_dim}, got {quantizer.latent_dim}"
            )
        config = CodecConfig(
            sample_rate=sample_rate,
            bandwidths_kbps=bandwidths_kbps or (),
            normalize=normalize,
            segment_seconds=segment_seconds,
            overlap=overlap,
            channels=network.channels,
            latent_dim=network.latent_dim,
            hop_samples=network.hop_samples,
            causal=network.causal,
            codebook_sizes=quantizer.codebook_sizes,
            network={"name": type(network).__name__} | network.settings(),
            quantizer={"name": type(quantizer).__name__} | quantizer.settings(),
        )
        if bandwidths_kbps is None:
            counts = {2**i for i in range(config.num_codebooks.bit_length())} | {config.num_codebooks}
            bandwidths = [config.kbps_of(count) for count in sorted(counts)]
            config = replace(config, bandwidths_kbps=bandwidths)
        self.config = config
        self.encoder = network.make_encoder()
        self.quantizer = quantizer
        self.decoder = network.make_decoder()

    def forward(self, audio: Tensor, num_codebooks: int | None = None, quantize: bool = True) -> CodecOutput:
        """Reconstructs one batch of segments, for training.

        Args:
            num_codebooks: Use only the first codebooks (quantizer dropout); None for all.
            quantize: False passes the latents through, before the codebooks are initialized.

        Shape: audio [B, C, T] -> CodecOutput.
        """
        self._check_audio(audio)
        normalized, gain = self._normalize(audio)
        latent = self.encoder(normalized)
        quantized = None
        decoder_input = latent
        if quantize:
            quantized = self.quantizer(latent, num_codebooks)
            decoder_input = quantized.latent
        estimate = self.decoder(decoder_input)[..., : audio.shape[-1]]
        return CodecOutput(_rescale(estimate, gain), latent, quantized)

    def encode_latent(self, audio: Tensor) -> Tensor:
        """The latent of `audio` before quantization.

        Shape: audio [B, C, T] -> latent [B, D, F].
        """
        self._check_audio(audio)
        latent: Tensor = self.encoder(self._normalize(audio)[0])
        return latent

    @torch.no_grad()
    def encode(self, audio: Tensor, sample_rate: int, bandwidth_kbps: float | None = None) -> Tensor:
        """Codes of `audio`, which is resampled if its rate is not that of the codec.

        Args:
            audio: Floating point in about [-1, 1], on any device.
            sample_rate: Of the audio, in Hz.
            bandwidth_kbps: Bitrate in kbit/s; None for the codec's highest.

        Shape: audio [B, C, T] -> codes [B, K, F] int64.

        Raises:
            TypeError: The audio is not a tensor.
            ValueError: The audio is of integers, is not finite or has the wrong shape, the rate is not a whole number
                of Hz, the bandwidth is out of reach, or codes alone do not describe the audio: a codec with segments or
                gains has `encode_segments`.
        """
        self._check_codes_suffice("encode")
        self._check_audio(audio)
        if not audio.is_floating_point():
            raise ValueError(
                f"expected audio of floats in about [-1, 1], got {audio.dtype}: divide by full scale first"
            )
        if not audio.isfinite().all():  # their codes would be those of silence
            raise ValueError("expected audio of finite numbers, got NaN or infinity")
        if sample_rate < 1 or sample_rate % 1:
            raise ValueError(f"expected the sampling rate of the audio in Hz, a whole number, got {sample_rate}")
        if sample_rate != self.config.sample_rate:
            audio = resample(audio.detach().cpu(), int(sample_rate), self.config.sample_rate)
        (segment,) = self.encode_segments(audio.to(next(self.parameters())), bandwidth_kbps)
        return segment.codes

    @torch.no_grad()
    def decode(self, codes: Tensor, samples: int | None = None) -> Tensor:
        """Audio from the codes that `encode` returned, at the sampling rate of the codec.

        Args:
            codes: Of the first K codebooks, on any device. Fewer codebooks than were encoded are a lower bitrate.
            samples: Cut the result to this length; None returns whole frames.

        Shape: codes [B, K, F] -> audio [B, C, samples].

        Raises:
            ValueError: The codes have the wrong shape or type or are out of range, or codes alone do not describe the
                audio: a codec with segments or gains has `decode_segments`.
        """
        self._check_codes_suffice("decode")
        self._check_codes(codes)
        codes = codes.to(next(self.parameters()).device, torch.int64)
        return self.decode_segments([EncodedSegment(codes, None)], samples)

    @torch.no_grad()
    def encode_segments(self, audio: Tensor, bandwidth_kbps: float | None = None) -> list[EncodedSegment]:
        """Codes and gains of `audio`, one entry per segment; a codec without segments gives one.

        Long audio is coded in steps if the codec is causal, so memory does not grow with its length.

        Args:
            audio: At the codec's sampling rate, on its device.
            bandwidth_kbps: Bitrate in kbit/s; None for the codec's highest.

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
        starts = range(0, max(1, samples), self.config.segment_stride(samples))
        return [self.encode_segment(audio[..., start : start + length], bandwidth_kbps) for start in starts]

    @torch.no_grad()
    def encode_segment(self, audio: Tensor, bandwidth_kbps: float | None = None) -> EncodedSegment:
        """Codes of one segment.

        Shape: audio [B, C, T] -> codes [B, K, F].

        Raises:
            ValueError: As in `encode_segments`.
        """
        self._check_audio(audio)
        with without_tf32(audio.device):
            normalized, gain = self._normalize(audio)
            codes = self.quantizer.encode(self.encoder(normalized), self.config.codebooks_for(bandwidth_kbps))
        return EncodedSegment(codes, None if gain is None else gain.flatten())

    @torch.no_grad()
    def decode_segments(self, segments: Sequence[EncodedSegment], samples: int | None = None) -> Tensor:
        """Audio from the segments that `encode_segments` returned.

        Args:
            samples: Cut the result to this length; None returns whole frames.

        Shape: codes [B, K, F] each -> audio [B, C, samples].
        """
        if self.config.segment_seconds is not None:
            pieces = [self.decode_segment(segment) for segment in segments]
            joined = OverlapAdd(self.config.segment_stride(0), max(piece.shape[-1] for piece in pieces))
            audio = torch.cat([*map(joined.push, pieces), joined.flush()], -1)
        elif len(segments) != 1:
            raise ValueError(f"expected exactly one segment for a codec without segments, got {len(segments)}")
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
        """Audio of one segment.

        Shape: codes [B, K, F] -> audio [B, C, F * hop].
        """
        with without_tf32(segment.codes.device):
            audio = self.decoder(self.quantizer.decode(segment.codes))
        return _rescale(audio, None if segment.gain is None else segment.gain.view(-1, 1, 1))

    def _normalize(self, audio: Tensor) -> tuple[Tensor, Tensor | None]:
        """Divides by the RMS of the mono mix, or of the channels if they cancel each other in the mix.

        Shape: audio [B, C, T] -> [B, C, T], gain [B, 1, 1].
        """
        if not self.config.normalize:
            return audio, None
        mono = audio.mean(1, keepdim=True).square().mean(2, keepdim=True).sqrt()
        channels = audio.square().mean((1, 2), keepdim=True).sqrt()
        gain = channels.where(mono < CANCELLED * channels, mono) + 1e-8  # the offset keeps silence finite
        return audio / gain, gain

    def _step_frames(self, batch: Tensor) -> int | None:
        """Frames per step for a batch of this size; None codes all frames at once.

        Shape: batch [B, ...].
        """
        if not self.config.can_stream:
            return None
        step_samples = _STEP_SAMPLES if batch.device.type == "cpu" else _DEVICE_STEP_SAMPLES
        return max(_MIN_STEP_FRAMES, step_samples // (max(1, batch.shape[0]) * self.config.hop_samples))

    def _check_audio(self, audio: Tensor) -> None:
        if not isinstance(audio, Tensor):
            raise TypeError(f"expected audio as a tensor, got {type(audio).__name__}: torch.as_tensor makes one")
        if audio.dim() != 3 or audio.shape[1] != self.config.channels or audio.shape[2] == 0:
            raise ValueError(
                f"expected audio [B, {self.config.channels}, T] with T > 0 for a codec of {self.config.channels} "
                f"channel(s), got {list(audio.shape)}"
            )

    def _check_codes(self, codes: Tensor) -> None:
        sizes, is_integer = self.config.codebook_sizes, not (codes.is_floating_point() or codes.is_complex())
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= len(sizes) or codes.shape[2] == 0 or not is_integer:
            raise ValueError(
                f"expected codes [B, K, F] of integers with K from 1 to {len(sizes)} and F > 0, "
                f"got {codes.dtype} {list(codes.shape)}"
            )
        for k, size in zip(range(codes.shape[1]), sizes, strict=False):
            least, most = (int(code) for code in codes[:, k].aminmax())
            if least < 0 or most >= size:
                raise ValueError(f"codebook {k} has the codes 0 to {size - 1}, got {least if least < 0 else most}")

    def _check_codes_suffice(self, method: str) -> None:
        config = self.config
        if config.normalize or config.segment_seconds is not None:
            reason = "stores a gain" if config.normalize else f"codes segments of {config.segment_seconds:g} s"
            raise ValueError(f"this codec {reason}, so its audio is more than one tensor of codes: "
                             f"use {method}_segments")  # fmt: skip


def _rescale(audio: Tensor, gain: Tensor | None) -> Tensor:
    return audio if gain is None else audio * gain
