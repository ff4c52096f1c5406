"""What a run computes from its first batches: precision of the layers, initial weights, codebooks and baselines."""

from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from codec.model import Codec
from codec.training.adversarial import AdversarialTraining
from codec.training.batches import TrainingData
from codec.training.distributed import Processes
from codec.training.startup.malloc import return_freed_memory
from codec.training.startup.pca_init import pca_init_
from codec.training.startup.precision import Precision, check_bfloat16, keep_float32
from losses import constant_baselines

__all__ = ["Startup"]

_BASELINE_BATCHES = 8
_MAX_PCA_BATCHES = 128  # principal components need fewer frames than k-means


class Startup:
    """Computations on the batches of `step` and later ones. The results are equal in all processes.

    Args:
        message: Called with a sentence for the log.
    """

    def __init__(
        self,
        codec: Codec,
        data: TrainingData,
        device: torch.device,
        precision: Precision,
        processes: Processes,
        message: Callable[[str], None],
    ) -> None:
        self.codec = codec
        self.data, self.device = data, device
        self.precision, self.processes, self.message = precision, processes, message

    def check_precision(self, adversarial: AdversarialTraining | None, step: int) -> None:
        """With bfloat16, compares every layer with float32. Layers that fail in any process stay in float32."""
        self.message(f"precision: {self.precision.description}")
        if self.precision.dtype == torch.float32:
            return
        # Rounding the waveform to the 8 bits of bfloat16 adds white noise 54 dB below it, which is louder than much of
        # the treble that the spectral losses measure.
        keep_float32(cast(nn.Module, self.codec.encoder.input_layer))
        keep_float32(cast(nn.Module, self.codec.decoder.output_layer))
        networks = nn.ModuleDict({"codec": self.codec})
        if adversarial is not None:
            networks["discriminator"] = adversarial.discriminator
        (audio,) = self._batches(step, 1)
        failed = check_bfloat16(self.precision, networks, lambda: [network(audio) for network in networks.values()])
        found = {layer.name: layer for layers in self.processes.all_gather_object(failed) for layer in layers}
        for name, layer in found.items():
            keep_float32(networks.get_submodule(name))
            self.message(f"stays in float32, bfloat16 is wrong here: {layer}")
        self.message(f"bfloat16 checked against float32, {len(found)} layers failed")
        return_freed_memory()

    @torch.no_grad()
    def initialize_weights(self, average: AveragedModel, step: int, max_batches: int) -> None:
        """Sets codec and average to a transform codec of the first batches; see `pca_init`.

        Silence has no principal components. It leaves the weights random, which is logged.
        """
        batches = self._batches(step, min(max_batches, _MAX_PCA_BATCHES))
        audio = torch.cat([self.processes.all_gather(batch) for batch in batches])
        if not bool(audio.any()):
            self.message("the first batches are silent: the codec's initial weights stay random")
            return
        pca_init_(self.codec, audio)
        self.processes.broadcast(self.codec.parameters())
        average.module.load_state_dict(self.codec.state_dict())

    @torch.no_grad()
    def initialize_codebooks(self, step: int, num_batches: int, seed: int) -> int:
        """Initializes the codebooks with the latents of the next batches.

        Returns:
            Number of latent vectors; 0 if one of them is not finite, and nothing was initialized.
        """
        with self.precision.autocast():
            latents = [self.codec.encode_latent(b).float().transpose(1, 2) for b in self._batches(step, num_batches)]
        # In the order of a single process that reads whole batches.
        vectors = torch.cat([self.processes.all_gather(latent).flatten(0, 1) for latent in latents])
        if not bool(vectors.isfinite().all()):
            return 0
        self.codec.quantizer.initialize(vectors, seed, num_batches)
        self.processes.broadcast(self.codec.quantizer.buffers())
        return_freed_memory()
        return len(vectors)

    def constant_baselines(self, losses: Mapping[str, nn.Module], step: int) -> dict[str, float]:
        """Losses of the best constant prediction (see `losses.constant_baselines`), averaged over the processes."""
        found = constant_baselines(losses, self._batches(step, _BASELINE_BATCHES))
        values = self.processes.all_gather_object(found)
        return {name: fmean(each[name] for each in values) for name in found}

    def _batches(self, step: int, count: int) -> Iterator[Tensor]:
        return (self.data.batch(step + i).to(self.device) for i in range(count))
