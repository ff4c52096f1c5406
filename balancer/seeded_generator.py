"""Random draws that belong to one strategy and resume with it."""

import torch
from torch import Tensor, nn

from balancer.checks import check_range

__all__ = ["SeededGenerator"]


class SeededGenerator(nn.Module):
    """A CPU generator whose state is part of the state dict.

    Its draws do not depend on other draws of the run, and they are the same in all processes.

    Args:
        seed: Seed of the generator.

    Raises:
        ValueError: The seed is negative.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        check_range("[0, inf)", seed=seed)
        self.generator = torch.Generator().manual_seed(seed)

    def on(self, device: torch.device) -> torch.Generator:
        """A generator for many draws on `device`. Its seed is drawn from this one; equal devices draw equally."""
        seed = torch.randint(2**31, (), generator=self.generator)
        return torch.Generator(device).manual_seed(int(seed))

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())
