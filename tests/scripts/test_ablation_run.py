"""One run of an ablation: its scores, and how its memory is measured."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.evaluation import METRICS, Metric
from data import HeldOutClip
from scripts.ablation.run import peak_memory_mib, score
from tiny_command import composed
from tiny_run import initialized, tiny_codec, tones


def test_each_clip_is_scored_and_codes_are_counted_over_all() -> None:
    codec = initialized(tiny_codec())
    audio = zip(("speech", "speech", "music"), tones(3, 3200, 9), strict=True)
    clips = [HeldOutClip(f"{group}-{i}", group, clip) for i, (group, clip) in enumerate(audio)]
    calls: dict[str, int] = defaultdict(int)

    def peak(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
        assert estimate.shape == reference.shape
        assert sample_rate == 8000
        return reference.abs().amax((1, 2))

    def sometimes_undefined(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
        calls["stoi"] += 1
        return torch.tensor([math.nan if calls["stoi"] == 1 else 0.25])

    metrics = {
        "peak": Metric("peak", "peak", peak),
        "stoi": Metric("stoi", "STOI", sometimes_undefined, domain="speech"),
        "pesq": Metric("pesq", "PESQ", lambda e, r, sr: torch.tensor([math.nan]), domain="speech"),
        "total": Metric("total", "total", lambda counts, sizes: counts.sum(), domain="codes"),
    }
    scores, per_clip = score(codec, clips, 3.2, metrics, ["speech"])
    assert calls["stoi"] == 2  # not computed for music
    peaks = [per_clip[clip.name]["peak"] for clip in clips]
    assert peaks == pytest.approx([float(clip.audio.abs().max()) for clip in clips])
    assert [per_clip[clip.name]["stoi"] for clip in clips] == pytest.approx([math.nan, 0.25, math.nan], nan_ok=True)
    assert scores["total"] == 3 * 4 * 80  # clips, codebooks, frames of 40 samples
    assert set(scores) == {"total", "codes_used", "bitrate_efficiency"}
    assert [per_clip[clip.name]["group"] for clip in clips] == ["speech", "speech", "music"]
    with torch.no_grad():
        codes = torch.cat([codec.encode_segments(clip.audio[None], 3.2)[0].codes[0] for clip in clips], dim=1).numpy()
    used, bits = [], []
    for codebook in codes:
        share = np.bincount(codebook, minlength=16) / len(codebook)
        used.append(np.mean(share > 0))
        bits.append(-sum(p * math.log2(p) for p in share if p))
    assert scores["codes_used"] == pytest.approx(np.mean(used))
    assert scores["bitrate_efficiency"] == pytest.approx(sum(bits) / (4 * 4))


def test_the_default_metrics_exist() -> None:
    assert set(composed("ablate").metrics) <= set(METRICS)


def test_the_peak_memory_of_a_process_only_grows() -> None:
    cpu = torch.device("cpu")
    before = peak_memory_mib(cpu)
    if before is None:
        pytest.skip("this system does not report the peak memory of a process")
    block = torch.ones(64 << 18)  # 64 MiB
    del block
    after = peak_memory_mib(cpu)
    assert after is not None
    assert max(before, 64) <= after < before + 80
