"""Draws the README's picture: spectrograms of a clip, of the bundled model `speech` and of Opus, both at 6 kbit/s.

python -m scripts.spectrograms data/clips/held_out/speech/new_world_fr_0.ogg docs/spectrograms.png
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from codec.cli import main as codec_command
from codec.evaluation.baselines import code_with_opus

_KBPS = 6.0
_SECONDS, _TOP_HZ = 4.0, 12_000.0
_WINDOW_SECONDS, _FLOOR_DB = 0.032, -80.0
_BUNDLED = Path(__file__).resolve().parents[1] / "codec" / "bundled" / "speech" / "model.safetensors"


def power_db(audio: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Power spectrogram in dB, up to 12 kHz, 0 dB at its maximum.

    Shape: audio [T] -> [frequencies, frames].
    """
    window = torch.hann_window(round(_WINDOW_SECONDS * sample_rate))
    spectrum = torch.stft(torch.from_numpy(audio), len(window), len(window) // 8, window=window, return_complex=True)
    power = spectrum.abs().square()[: round(_TOP_HZ * _WINDOW_SECONDS) + 1]
    decibels: NDArray[np.float32] = (10 * torch.log10(power / power.max() + 1e-12)).numpy()
    return decibels


def draw(clip: Path, picture: Path) -> None:
    """Codes the first seconds of a clip, averaged to mono, and writes the picture as a PNG.

    Raises:
        RuntimeError: encoding or decoding failed; its message is on stderr.
    """
    audio, rate = soundfile.read(clip, frames=round(_SECONDS * soundfile.info(clip).samplerate), dtype="float32")
    mono = audio if audio.ndim == 1 else audio.mean(1)
    opus = code_with_opus(torch.from_numpy(mono)[None], rate, _KBPS)
    with tempfile.TemporaryDirectory() as folder:
        source, encoded, decoded = (f"{folder}/{name}" for name in ("in.wav", "out.ecdc", "out.wav"))
        soundfile.write(source, mono, rate)
        model = ["--model", str(_BUNDLED)]
        for command in (
            ["encode", source, "-f", "-o", encoded, "--bitrate", str(_KBPS)],
            ["decode", encoded, "-f", "-o", decoded],
        ):
            if codec_command([*command, *model]):
                raise RuntimeError(f"codec {command[0]} failed")
        ours, our_rate = soundfile.read(decoded, dtype="float32")

    panels = [("reference", mono, rate), ("this codec, 6 kbit/s", ours, our_rate)]
    panels.append((f"Opus, {8e-3 * opus.payload_bytes * rate / len(mono):.1f} kbit/s", opus.audio[0].numpy(), rate))
    figure = Figure(figsize=(10, 2.7), layout="constrained")
    for axes, (title, samples, sample_rate) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        box = (0, len(samples) / sample_rate, 0, _TOP_HZ / 1000)
        image = power_db(samples, sample_rate)
        axes.imshow(image, origin="lower", aspect="auto", extent=box, cmap="magma", vmin=_FLOOR_DB, vmax=0)
        axes.set(title=title, xlabel="s")
    figure.axes[0].set_ylabel("kHz")
    with io.BytesIO() as buffer:
        figure.savefig(buffer, dpi=90)
        Image.open(buffer).convert("RGB").quantize(64).save(picture, optimize=True)  # a quarter of the bytes


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
