"""Commands; run as `python -m scripts.train` from the checkout.

The packages have common names. An import error is raised if another package `data` or `codec` is found first.
"""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

_ROOT = Path(__file__).resolve().parent.parent

for _name in ("balancer", "codec", "data", "losses"):
    _spec = find_spec(_name)
    _found = Path(_spec.origin).resolve().parent if _spec is not None and _spec.origin else None
    if _found != _ROOT / _name:
        raise ImportError(f"expected the package {_name} in {_ROOT}, but Python finds {_found}: run from {_ROOT}")


def _end(number: int, frame: object) -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def handle_interrupts() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt again. A command calls it when its imports are done."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Imports take seconds. Ctrl-C during them ends the command without a traceback. Python sets argv[0] to -m while it
# loads the package of a command. In the background of a shell Ctrl-C is ignored, which stays so.
_is_command = sys.argv[:1] == ["-m"] and not {"scripts.train", "scripts.ablate"}.isdisjoint(sys.orig_argv)
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
