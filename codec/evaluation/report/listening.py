"""The page to listen to an evaluation: some clips in all codecs under one playhead, and a MUSHRA test of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codec.audio import readable
from codec.evaluation.rate_distortion import Measurement
from codec.evaluation.report.samples import Clip, Version, audio_uri
from codec.evaluation.report.templates import environment

__all__ = ["write_listening_page"]

_MAX_BYTES = 24_000_000  # of base64 audio in one page


def write_listening_page(measurements: Sequence[Measurement], sample_rate: int, title: str, path: Path) -> None:
    """Writes one self-contained HTML file with the clips whose audio was kept.

    Args:
        measurements: Of `evaluate_folder`, with the recording as one of the coders.
        sample_rate: Of the audio in Hz.
        title: Heading of the page. The ratings of pages with the same title are stored together.
        path: File to write.

    Raises:
        OSError: The file cannot be written.
    """
    names = list(dict.fromkeys(m.clip for m in measurements if m.audio is not None))
    clips: list[Clip] = []
    used_bytes = 0
    for name in names:
        if clips and used_bytes * (1 + 1 / len(clips)) > _MAX_BYTES:
            break
        own = [m for m in measurements if m.clip == name]
        versions = sorted((_version(m, sample_rate) for m in own), key=lambda version: version.key != "reference")
        clips.append(Clip(readable(name), round(own[0].seconds, 4), versions))
        used_bytes += sum(len(version.audio) for version in versions)
    labels = {version.key: version.label for clip in clips for version in clip.versions}
    notes = [f"The first {len(clips)} of {len(names)} clips are here."] if len(clips) < len(names) else []
    template = environment().get_template("listening.html.j2")
    page = template.render(title=title, clips=clips, versions=list(labels.items()), notes=notes)
    path.write_text(page, encoding="utf-8", errors="replace")


def _version(measurement: Measurement, sample_rate: int) -> Version:
    assert measurement.audio is not None
    label = measurement.coder
    if measurement.bandwidth_kbps is not None:
        label = f"{label}, {measurement.bandwidth_kbps:g} kbit/s"
    key = "reference" if measurement.coder == "recording" else label
    audio = np.clip(np.nan_to_num(measurement.audio.T.numpy()), -1, 1)
    return Version(key, key if key == "reference" else label, audio_uri(audio, sample_rate), sample_rate, label)
