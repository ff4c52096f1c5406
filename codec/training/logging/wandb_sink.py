"""Metrics and audio for Weights & Biases."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from codec.ranges import check_ranges

__all__ = ["WandbSink"]


class WandbSink:
    """Sends metrics and audio to Weights & Biases. A resumed run continues under the same id.

    Args:
        project: Name of the wandb project.
        name: Name of the run in wandb; None uses the name of the run's folder.
        mode: "online", "offline" (no network; upload later with `wandb sync`) or "disabled". None takes the environment
            variable WANDB_MODE, or else "online".
        entity: Team or user; None uses the default of the account.

    Raises:
        ValueError: `mode` is none of the three.
    """

    def __init__(
        self,
        project: str,
        name: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        entity: str | None = None,
    ) -> None:
        check_ranges(WandbSink.__init__, locals(), "wandb ")
        self.project, self.name, self.mode, self.entity = project, name, mode, entity
        self._run: Any = None

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Starts the run in wandb.

        Raises:
            RuntimeError: wandb does not start, for example because nobody is logged in.
        """
        import wandb  # imported here because it takes seconds, and most runs do not use it

        id_file = folder / "wandb_id.txt"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4), encoding="utf-8")
        mode = self.mode or os.environ.get("WANDB_MODE", "online")
        try:
            self._run = wandb.init(
                project=self.project,
                name=self.name or folder.resolve().name,
                id=id_file.read_text(encoding="utf-8").strip(),
                entity=self.entity,
                mode=mode,  # type: ignore[arg-type]
                dir=str(folder),
                config=dict(config),
                resume="allow" if mode == "online" else None,  # offline, wandb warns that it cannot resume
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise RuntimeError(
                f"wandb does not start: {error} Log in with .venv/bin/wandb login, or set WANDB_MODE=offline"
            ) from error
        # wandb's own step counter must not decrease, but a resumed run repeats steps.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def rewind(self, step: int) -> None:
        """Does nothing: wandb cannot remove records. Repeated steps are logged a second time."""

    def metrics(self, split: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **{f"{split}/{name}": value for name, value in values.items()}})

    def audio(self, name: str, step: int, audio: Tensor, sample_rate: int) -> None:
        import wandb

        clip = wandb.Audio(audio.T.numpy(), sample_rate=sample_rate, caption=f"{name}, step {step}")
        self._run.log({"step": step, f"audio/{name}": clip})

    def close(self) -> None:
        self._run.finish()
