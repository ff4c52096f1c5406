"""What a run looks at before its first step: bfloat16 in every layer, audio for the first weights and codebooks."""

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from codec.model import Codec
from codec.training.adversarial import AdversarialTraining
from codec.training.distributed import Processes
from codec.training.startup.pca_init import pca_init_
from codec.training.startup.precision import Precision, check_bfloat16, keep_float32
from losses import constant_baselines

__all__ = ["latent_vectors", "shared_constant_baselines", "start_codebooks", "start_weights", "trust_bfloat16"]


def trust_bfloat16(
    precision: Precision,
    codec: Codec,
    adversarial: AdversarialTraining | None,
    audio: Tensor,
    processes: Processes,
    message: Callable[[str], None],
) -> None:
    """Compares every layer with float32 on a real batch; what fails, in whichever process, stays in float32 in all.

    Shape: audio [B, C, T].
    """
    # bfloat16 has 8 bits: rounding the waveform itself adds white noise 54 dB below it, louder than much of the treble
    # that the spectral losses ask for.
    keep_float32(cast(nn.Module, codec.encoder.input_layer))
    keep_float32(cast(nn.Module, codec.decoder.output_layer))
    discriminator = {} if adversarial is None else {"discriminator": adversarial.discriminator}
    parts = nn.ModuleDict({"codec": codec, **discriminator})
    failed = check_bfloat16(precision, parts, lambda: [part(audio) for part in parts.values()])
    everywhere = {layer.name: layer for found in processes.all_gather_object(failed) for layer in found}
    for name, layer in everywhere.items():
        keep_float32(parts.get_submodule(name))
        message(f"stays in float32, bfloat16 is wrong here: {layer}")
    message(f"bfloat16 checked against float32, {len(everywhere)} layers failed")


def shared_constant_baselines(
    losses: Mapping[str, nn.Module], batches: Iterable[Tensor], processes: Processes
) -> dict[str, float]:
    """What `losses.constant_baselines` finds in some batches, on average over the processes."""
    found = processes.all_gather_object(constant_baselines(losses, batches))
    return {name: fmean(each[name] for each in found) for name in found[0]}


@torch.no_grad()
def latent_vectors(codec: Codec, batches: Iterable[Tensor], precision: Precision, processes: Processes) -> Tensor:
    """The encoder's latents of some batches, those of all processes together, in the order of one process alone.

    Shape: batches [B, C, T] each -> vectors [N, D].
    """
    with precision.autocast():
        latents = [codec.encode_latent(batch).float().transpose(1, 2) for batch in batches]
    return torch.cat([processes.all_gather(latent).flatten(0, 1) for latent in latents])


def start_weights(
    codec: Codec,
    average: AveragedModel,
    batches: Iterable[Tensor],
    processes: Processes,
    message: Callable[[str], None],
) -> None:
    """Makes the codec a transform of some batches, those of all processes together; the average begins there, too.

    Silence has no principal components: it leaves the weights random, and a message.

    Shape: batches [B, C, T] each.
    """
    audio = torch.cat([processes.all_gather(batch) for batch in batches])
    if not bool(audio.any()):
        message("the first batches are silent: the codec's first weights stay random")
        return
    pca_init_(codec, audio)
    processes.broadcast(codec.parameters())
    average.module.load_state_dict(codec.state_dict())


def start_codebooks(
    codec: Codec, batches: Iterable[Tensor], count: int, precision: Precision, processes: Processes, seed: int
) -> int:
    """Sets the books, alike in all processes, to what the latents of `count` batches look like.

    Shape: batches [B, C, T] each.

    Returns:
        How many latent vectors that were; 0 if one of them is not finite, and nothing was set.
    """
    vectors = latent_vectors(codec, batches, precision, processes)
    if not bool(vectors.isfinite().all()):
        return 0
    codec.quantizer.initialize(vectors, seed, count)
    processes.broadcast(codec.quantizer.buffers())
    return len(vectors)
