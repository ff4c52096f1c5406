"""The first lines of a run: device, batch, length, and sizes of the networks."""

from collections.abc import Iterator

import torch
from torch import nn

from codec.training.batches import TrainingData
from codec.training.config import TrainingConfig
from codec.training.startup.cpu import cpu_facts
from codec.training.startup.precision import Precision

__all__ = ["count_parameters", "device_name", "run_facts"]


def device_name(device: torch.device) -> str:
    """Such as `cuda (NVIDIA H200)` or `cpu (AMD EPYC 7763, 2 threads)`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type != "cpu":
        return str(device)
    model = cpu_facts().get("model name", "")
    threads = torch.get_num_threads()
    return f"cpu ({f'{model}, ' if model else ''}{threads} thread{'s' if threads > 1 else ''})"


def run_facts(
    config: TrainingConfig,
    data: TrainingData,
    device: torch.device,
    precision: Precision,
    networks: dict[str, nn.Module],
) -> Iterator[str]:
    """Sentences for the log.

    Args:
        networks: Name -> network, such as the codec and the discriminator.
    """
    segment_seconds = data.dataset.segment_samples / data.dataset.sample_rate
    processes = f", {data.world_size} processes" if data.world_size > 1 else ""
    yield f"device: {device_name(device)}{processes}"
    yield f"precision: {precision.description}"
    yield f"batch: {data.batch_size} x {segment_seconds:g} s, {data.num_workers} workers"
    if config.max_steps is not None:
        epochs = config.max_steps / data.steps_per_epoch  # 0 for a stream, whose epochs have no end
        yield f"length: {config.max_steps:,} steps{f' ({epochs:.3g} passes over the audio)' if epochs else ''}"
    else:
        yield f"length: {config.max_minutes:g} minutes"
    sizes = (f"{name} {count_parameters(network) / 1e6:.2f} M" for name, network in networks.items())
    yield f"parameters: {', '.join(sizes)}"


def count_parameters(module: nn.Module) -> int:
    """Number of numbers in the parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
