"""Metrics and audio for TensorBoard."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["TensorBoardSink"]


class TensorBoardSink:
    """Writes metrics and audio as TensorBoard event files.

    Args:
        folder: Folder of the event files, relative to the run's folder.

    Raises:
        ImportError: The package tensorboard is not installed.
    """

    def __init__(self, folder: str = "tensorboard") -> None:
        if find_spec("tensorboard") is None:
            raise ImportError(
                "logger=tensorboard needs the package tensorboard, which is not installed: "
                "run bash scripts/setup.sh tensorboard"
            )
        self.folder = folder
        self._writer: Any = None

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._path = folder / self.folder
        self._open_writer(None)

    def rewind(self, step: int) -> None:
        """Hides the events of later steps."""
        self._writer.close()
        self._open_writer(step + 1)

    def metrics(self, split: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)
        self._writer.flush()

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None:
        mono = audio.mean(0, keepdim=True)  # TensorBoard supports one channel only
        self._writer.add_audio(f"audio/{name}", mono, step, sample_rate=sample_rate)

    def close(self) -> None:
        self._writer.close()

    def _open_writer(self, purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # imported here because it takes a second

        self._writer = SummaryWriter(str(self._path), purge_step=purge_step)
