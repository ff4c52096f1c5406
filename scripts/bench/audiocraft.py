"""The peer of scripts/bench/step.py: training steps with audiocraft 1.3, in the order of its compression solver.

It runs in a separate environment, made by scripts/bench.sh, where audiocraft is installed without its dependencies.
Packages that audiocraft imports but a codec's training step does not use are replaced by mocks.
"""

import argparse
import importlib.machinery
import importlib.util
import json
import resource
import sys
import time
import types
from pathlib import Path
from unittest.mock import MagicMock

import torch
from torch import nn

_UNUSED = (
    "av av.subtitles av.subtitles.stream xformers xformers.ops spacy demucs demucs.apply demucs.audio "
    "demucs.pretrained num2words torchdiffeq pretty_midi librosa pesq pystoi torchmetrics torchmetrics.audio "
    "torchmetrics.audio.snr"
)


def import_parts() -> types.ModuleType:
    """Registers audiocraft's packages without running their __init__, which would import every model."""
    for name in _UNUSED.split():
        stand_in = MagicMock(name=name)
        stand_in.__spec__ = importlib.machinery.ModuleSpec(name, None)
        stand_in.__path__ = []
        sys.modules[name] = stand_in
    spec = importlib.util.find_spec("encodec")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent.parent / "audiocraft"
    for name in ("audiocraft", *(f"audiocraft.{part}" for part in ("models", "solvers", "data", "metrics", "utils"))):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    return package


class Step:
    """One training step of the 24 kHz model with audiocraft's losses; the values are those of its YAML files."""

    def __init__(self, bfloat16: bool) -> None:
        import_parts()
        from audiocraft.adversarial import AdversarialLoss
        from audiocraft.adversarial import losses as adversarial
        from audiocraft.adversarial.discriminators.msstftd import MultiScaleSTFTDiscriminator
        from audiocraft.losses.balancer import Balancer
        from audiocraft.losses.specloss import MultiScaleMelSpectrogramLoss
        from audiocraft.modules.seanet import SEANetDecoder, SEANetEncoder
        from audiocraft.quantization import ResidualVectorQuantizer

        network = {
            "dimension": 128, "n_filters": 32, "ratios": [8, 5, 4, 2], "lstm": 2, "causal": True,
            "norm": "weight_norm", "pad_mode": "constant", "true_skip": True,
        }  # fmt: skip
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder, self.decoder = SEANetEncoder(**network), SEANetDecoder(**network)
        # The k-means initialization takes minutes and is not part of a step.
        self.quantizer = ResidualVectorQuantizer(dimension=128, n_q=32, bins=1024, q_dropout=True, kmeans_init=False)
        model = nn.ModuleList([self.encoder, self.decoder, self.quantizer]).to(device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, betas=(0.5, 0.9))
        windows = [1024, 2048, 512, 256, 128]
        discriminator = MultiScaleSTFTDiscriminator(
            filters=32, n_ffts=windows, win_lengths=windows, hop_lengths=[w // 4 for w in windows],
            activation="LeakyReLU", activation_params={"negative_slope": 0.3},
        ).to(device)  # fmt: skip
        self.adversarial = AdversarialLoss(
            discriminator,
            torch.optim.Adam(discriminator.parameters(), lr=3e-4, betas=(0.5, 0.9)),
            adversarial.get_adv_criterion("hinge"),
            adversarial.get_real_criterion("hinge"),
            adversarial.get_fake_criterion("hinge"),
            loss_feat=adversarial.FeatureMatchingLoss(nn.L1Loss()),
        )
        self.mel = MultiScaleMelSpectrogramLoss(
            24_000, range_start=6, range_end=11, n_mels=64, f_min=64, alphas=False
        ).to(device)
        self.balancer = Balancer({"adv": 4.0, "feat": 4.0, "l1": 0.1, "mel": 2.0})
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=bfloat16)
        torch.manual_seed(0)
        self.audio = torch.randn(4, 1, 24_000, device=device) * 0.1

    def __call__(self) -> None:
        with self.autocast:
            x = self.audio
            quantized = self.quantizer(self.encoder(x), 75)
            y = self.decoder(quantized.x)[..., : x.shape[-1]]
            self.adversarial.train_adv(y, x)
            adversarial, features = self.adversarial(y, x)
            losses = {"adv": adversarial, "feat": features, "l1": nn.functional.l1_loss(y, x), "mel": self.mel(y, x)}
            quantized.penalty.backward(retain_graph=True)
            self.balancer.backward(losses, y)
            self.optimizer.step()
            self.optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="float32")
    # auto means bfloat16 here: the comparison is with the fastest precision of audiocraft.
    bfloat16 = parser.parse_args().precision != "float32"
    step = Step(bfloat16)
    for _ in range(2):
        step()
    print(json.dumps({"precision": "its bfloat16 autocast" if bfloat16 else "float32"}), flush=True)
    for _ in sys.stdin:
        begun = _clock()
        step()
        print(json.dumps({"seconds": _clock() - begun}), flush=True)
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak}), flush=True)


def _clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
