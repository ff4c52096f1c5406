"""The README.md of an exported model: architecture, training and scores, from the folder of its run."""

import json
from pathlib import Path
from typing import Any

from codec.config import CodecConfig
from codec.model import Codec
from codec.model_file import fingerprint

__all__ = ["model_card"]

_USE = """```python
import torch
from transformers import AutoProcessor, EncodecModel

model = EncodecModel.from_pretrained("PATH")
processor = AutoProcessor.from_pretrained("PATH")
audio = torch.zeros({shape}).numpy()  # in about [-1, 1], at {sample_rate} Hz
inputs = processor(raw_audio=audio, sampling_rate={sample_rate}, return_tensors="pt")
encoded = model.encode(inputs["input_values"], inputs["padding_mask"], bandwidth={bandwidth:g})
decoded = model.decode(**encoded, padding_mask=inputs["padding_mask"]).audio_values
```"""


_USE_DAC = """```python
from transformers import AutoProcessor, DacModel

model = DacModel.from_pretrained("PATH")
processor = AutoProcessor.from_pretrained("PATH")

audio = ...  # numpy, [{shape}] samples of one second
inputs = processor(raw_audio=audio, sampling_rate={sample_rate}, return_tensors="pt")
codes = model.encode(inputs["input_values"]).audio_codes
decoded = model.decode(audio_codes=codes).audio_values
```"""


def model_card(codec: Codec, run: Path | None, licence: str | None) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        run: Folder of the run. The card uses config.yaml, metrics.jsonl and evaluation/evaluation.md if they exist.
        licence: Licence of the weights; None is shown as "not stated".
    """
    config = codec.config
    front = [*([f"license: {json.dumps(licence)}"] if licence else []), "library_name: transformers"]
    shape = str(config.sample_rate) if config.channels == 1 else f"{config.channels}, {config.sample_rate}"
    kind = "dac" if config.network["name"] == "DACNetwork" else "encodec"
    use = (_USE_DAC if kind == "dac" else _USE).format(
        shape=shape, sample_rate=config.sample_rate, bandwidth=max(config.bandwidths_kbps)
    )
    parts = [
        "\n".join(["---", *front, f"tags: [audio, neural-codec, {kind}]", "---"]),
        f"# Neural audio codec, {config.sample_rate / 1000:g} kHz",
        _architecture(codec),
        use,
        *([] if run is None else [*_training(run), *_evaluation(run)]),
        f"Licence: {licence or 'not stated'}.",
    ]
    return "\n\n".join(parts) + "\n"


def _architecture(codec: Codec) -> str:
    config: CodecConfig = codec.config
    weights = sum(parameter.numel() for parameter in codec.parameters())
    rates = ", ".join(f"{rate:g}" for rate in sorted(config.bandwidths_kbps))
    style = "DAC" if config.network["name"] == "DACNetwork" else "EnCodec-style"
    segments = "" if config.segment_seconds is None else f", in segments of {config.segment_seconds:g} s"
    return (
        f"{style}, {'causal' if config.causal else 'not causal'}, {config.channels} channel(s){segments}; "
        f"{weights / 1e6:.2f} million weights, {config.frame_rate_hz} frames per second, {config.num_codebooks} "
        f"codebooks of {config.codebook_size} codes; {rates} kbps. Fingerprint of the exported codec: "
        f"`{fingerprint(codec)}`."
    )


def _training(run: Path) -> list[str]:
    facts = []
    if (run / "config.yaml").is_file():
        import yaml

        settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        facts += [
            f"- data: {_brief(settings.get('data', {}).get('corpus'))}",
            f"- losses and their weights: {_brief(settings.get('losses', {}).get('weights'))}",
            f"- seed: {settings.get('seed')}",
        ]
        if settings.get("init_from"):
            facts.append(f"- initial weights: `{settings['init_from']}`")
    records = _records(run / "metrics.jsonl")
    if records:
        facts.append(f"- steps: {max(record['step'] for record in records)}")
    scores = [record for record in records if record["split"] == "validation"]
    if scores:
        facts.append(f"- last validation, at step {scores[-1]['step']}: {_brief(_scores(scores[-1]))}")
    return ["## Training\n\n" + "\n".join(facts)] if facts else []


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if {"split", "step"} <= record.keys()]


def _scores(record: dict[str, Any]) -> dict[str, str]:
    return {
        name: f"{value:.4g}"
        for name, value in record.items()
        if "/" in name and not name.startswith("codebook/") and isinstance(value, int | float)
    }


def _brief(value: Any) -> str:
    """Settings on one line, without those that are null."""
    if not isinstance(value, dict):
        return f"`{value}`"
    shown = {name.removeprefix("_").rstrip("_"): item for name, item in value.items() if item is not None}
    return ", ".join(f"{name} `{item}`" for name, item in shown.items())


def _evaluation(run: Path) -> list[str]:
    """The tables of `codec evaluate`."""
    path = run / "evaluation" / "evaluation.md"
    return [f"## Scores\n\n{path.read_text(encoding='utf-8').rstrip()}"] if path.is_file() else []
