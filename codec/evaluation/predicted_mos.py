"""Predictors of listeners' opinion of speech. They score the estimate alone; the reference has a score of its own.

They agree with listening tests of neural codecs where PESQ and distances of spectra do not. Scores are mean opinion
scores from 1 to 5, higher is better. The conventions are those of `codec.evaluation.perceptual`: audio [B, C, T],
arguments (estimate, reference), the mean of the channels is scored, and NaN where the metric is undefined:
silence, samples that are not finite, and clips below 1 s.
"""

import contextlib
import functools
import io
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.audio import resample
from codec.evaluation.perceptual import score_each_clip

__all__ = ["distillmos", "dnsmos"]

_RATE = 16_000
_MIN_SECONDS = 1.0  # both predictors were trained on whole sentences
_DNSMOS_SAMPLES = 144_160  # 9.01 s
# From the raw overall score to the mean opinion score (`p_ovr` of the package speechmos), highest power first.
_DNSMOS_OVERALL = (-0.06766283, 1.11546468, 0.04602535)


def distillmos(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """DistillMOS (Stahl and Gamper 2025), a small network that was trained on the scores of a large one.

    It scores windows of 7.68 s, padded with zeros, and takes their mean.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].

    Raises:
        TypeError, ValueError: See `validate`.
    """
    model = _distillmos_model()

    def predict(audio: Tensor) -> float:
        with torch.inference_mode():
            return float(model(audio[None]))

    return _predict_each_clip(predict, estimate, reference, sample_rate)


def dnsmos(estimate: Tensor, reference: Tensor, sample_rate: int) -> Tensor:
    """DNSMOS P.835 (Reddy et al. 2022), the overall quality.

    It scores windows of 9.01 s with a hop of 1 s and takes their mean; a shorter clip is repeated.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].

    Raises:
        TypeError, ValueError: See `validate`.
    """
    session = _dnsmos_session()

    def predict(audio: Tensor) -> float:
        audio = audio.clamp(-1, 1)
        while len(audio) < _DNSMOS_SAMPLES:
            audio = audio.repeat(2)
        windows = audio.unfold(0, _DNSMOS_SAMPLES, _RATE).numpy()
        raw = [session.run(None, {"input_1": window[None]})[0][0, 2] for window in windows]
        return float(np.polyval(_DNSMOS_OVERALL, raw).mean())

    return _predict_each_clip(predict, estimate, reference, sample_rate)


def _predict_each_clip(
    predict: Callable[[Tensor], float], estimate: Tensor, reference: Tensor, sample_rate: int
) -> Tensor:
    """Applies `predict` to the mean of the channels of each estimate [T] at 16 kHz in float32; NaN below 1 s.

    Shape: estimate [B, C, T], reference [B, C, T] -> [B].
    """

    def score(estimate: Tensor, reference: Tensor) -> float:
        if len(estimate) < _MIN_SECONDS * sample_rate:
            return math.nan
        return predict(resample(estimate, sample_rate, _RATE).float())

    return score_each_clip(score, estimate, reference)


@functools.cache
def _distillmos_model() -> Any:
    from distillmos import ConvTransformerSQAModel  # takes seconds to import

    # It prints where its weights lie, and it draws initial weights, which must not change the training around it.
    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        return ConvTransformerSQAModel().eval()


@functools.cache
def _dnsmos_session() -> Any:
    import onnxruntime

    # The package itself imports librosa, which compiles for 20 s at its first call.
    folders = find_spec("speechmos").submodule_search_locations  # type: ignore[union-attr]
    path = Path(folders[0], "dnsmos_models", "sig_bak_ovr.onnx")  # type: ignore[index]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
