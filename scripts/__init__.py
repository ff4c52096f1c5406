"""Commands; run as `python -m scripts.train` from the checkout.

The packages have common names. An import error is raised if another package `data` or `codec` is found first.
"""

from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

for _name in ("balancer", "codec", "data", "losses"):
    _spec = find_spec(_name)
    _found = Path(_spec.origin).resolve().parent if _spec is not None and _spec.origin else None
    if _found != _ROOT / _name:
        raise ImportError(f"expected the package {_name} in {_ROOT}, but Python finds {_found}: run from {_ROOT}")
