"""Commands; run as `python -m scripts.train` from the checkout.

The packages have everyday names. If another `data` or `codec` comes first on the path, say so now rather than fail
in the middle of something with a stranger's module.
"""

from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

for _name in ("balancer", "codec", "data", "losses"):
    _spec = find_spec(_name)
    _found = Path(_spec.origin).resolve().parent if _spec is not None and _spec.origin else None
    if _found != _ROOT / _name:
        raise ImportError(f"wanted the package {_name} in {_ROOT}, but the path leads to {_found}: run from {_ROOT}")
