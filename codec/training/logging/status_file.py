"""status.json: what a run does now, how far it is, and when it last showed that it is alive."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from codec.atomic_file import atomic_write

__all__ = ["StatusFile"]

_LOGGER = logging.getLogger(__name__)
_INTERVAL_SECONDS = 10.0


class StatusFile:
    """Writes status.json, at once or when ten seconds have passed.

    A failed write is logged, and training continues. A process that is killed leaves `state` as it was; then `updated`
    is old. Facts of an earlier session, such as the step and the device, are kept until they are given again.

    Keys: `state` (running, finished, stopped, failed), `phase`, `message`, `updated` and `started` (Unix time), and
    what `update` is given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values = _facts(path) | {"state": "running", "phase": "start", "message": "", "started": time.time()}
        self._written_at = float("-inf")

    @property
    def ended(self) -> bool:
        """Whether the state is one that ends a session."""
        return self._values["state"] != "running"

    def update(self, *, at_once: bool = True, **values: Any) -> None:
        """Changes values, which must be primitives, and writes the file."""
        self._values |= values
        if not at_once and time.monotonic() - self._written_at < _INTERVAL_SECONDS:
            return
        self._written_at = time.monotonic()
        try:
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps(self._values | {"updated": time.time()}) + "\n", encoding="ascii")
        except OSError as error:
            _LOGGER.warning(f"{self.path.name} could not be written: {error.strerror or error}")


def _facts(path: Path) -> dict[str, Any]:
    """What the last session of the run has written, without how far it thought to be; empty if there is none."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    passing = ("updated", "seconds_left", "progress")
    return {key: value for key, value in values.items() if key not in passing} if isinstance(values, dict) else {}
