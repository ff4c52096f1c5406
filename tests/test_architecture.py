"""Which package may import which: parts stay usable without the trainer, and one place reads configs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("losses", "balancer", "data", "codec", "scripts")

# What each part may import of ours; the longest prefix of a module's name decides. Nobody may import scripts.
ALLOWED = {
    "losses": {"losses"},
    "balancer": {"balancer"},
    "codec.atomic_file": set(),
    "codec.audio": {"codec.audio", "codec.atomic_file"},
    "data": {"data", "codec.audio", "codec.atomic_file"},
    "codec": {"codec", "codec.audio", "codec.atomic_file"},
    "codec.evaluation": {"codec", "codec.audio", "codec.atomic_file", "codec.evaluation", "losses", "data"},
    "codec.training": {
        *("codec", "codec.audio", "codec.atomic_file", "codec.evaluation", "codec.training", "losses", "balancer"),
        "data",
    },
    "scripts": {
        *("codec", "codec.audio", "codec.atomic_file", "codec.evaluation", "codec.training", "losses", "balancer"),
        *("data", "scripts"),
    },
}
# One command scores, and any may be given a run's checkpoint; they import what they need for that when they run.
EXCEPTIONS = {
    "codec.commands.evaluate": {"codec.evaluation"},
    "codec.commands.model_options": {"codec.training"},
}
CONFIG_READERS = {"hydra", "omegaconf"}


def part_of(module: str) -> str | None:
    """The key of `ALLOWED` that `module` belongs to; None for other people's modules."""
    return max((part for part in ALLOWED if f"{module}.".startswith(f"{part}.")), key=len, default=None)


def imported_modules(module: str, is_package: bool, source: str) -> set[str]:
    """Every module or name that `source` imports, at any depth of nesting, as absolute dotted names."""
    names: set[str] = set()
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def violations(module: str, is_package: bool, source: str) -> list[str]:
    """The imports of `source` that its part may not make."""
    part = part_of(module)
    assert part is not None, module
    allowed = ALLOWED[part] | EXCEPTIONS.get(module, set())
    found = []
    for name in sorted(imported_modules(module, is_package, source)):
        target = part_of(name)
        if (target is not None and target not in allowed) or (
            name.split(".")[0] in CONFIG_READERS and part != "scripts"
        ):
            found.append(f"{module} imports {name}")
    return found


def test_every_import_points_in_the_allowed_direction() -> None:
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    assert {"codec.model", "codec.network.seanet"} <= {
        ".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files
    }
    found = []
    for file in files:
        is_package = file.name == "__init__.py"
        parts = file.relative_to(ROOT).with_suffix("").parts
        found += violations(".".join(parts[:-1] if is_package else parts), is_package, file.read_text("utf-8"))
    assert found == []


@pytest.mark.parametrize(
    ("module", "source", "caught"),
    [
        ("losses.waveform", "import torch\nfrom losses.spectral import MelLoss", False),
        ("losses.waveform", "from codec import Codec", True),
        ("losses.waveform", "def f():\n    import balancer.balancer as b", True),
        ("codec.model", "from codec.seanet import Encoder", False),
        ("codec.model", "from . import seanet", False),
        ("codec.model", "from .training import trainer", True),
        ("codec.model", "from codec import training", True),
        ("codec.model", "import omegaconf", True),
        ("codec.model", "def f():\n    from codec.evaluation import evaluate", True),
        ("codec.commands.evaluate", "def f():\n    from codec.evaluation import evaluate", False),
        ("codec.commands.evaluate", "def f():\n    import data", True),
        ("codec.evaluation.metrics", "from losses import mel", False),
        ("codec.evaluation.metrics", "from ..training.trainer import Trainer", True),
        ("codec.training.trainer", "import data, balancer, losses, codec.evaluation", False),
        ("codec.training.trainer", "from hydra.utils import instantiate", True),
        ("codec.training.trainer", "from scripts import train", True),
        ("scripts.train", "import hydra, codec.training", False),
        ("data.segments", "import database, codecs", False),
        ("data.segments", "from codec.audio import resample", False),
        ("data.segments", "from codec.model import Codec", True),
        ("codec.audio.reader", "from codec.model import Codec", True),
    ],
)
def test_the_check_can_fail(module: str, source: str, caught: bool) -> None:
    assert bool(violations(module, False, source)) == caught


def test_no_file_is_named_for_nothing() -> None:
    names = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py", "builders.py"}
    assert [str(file) for package in PACKAGES for file in (ROOT / package).rglob("*.py") if file.name in names] == []


@pytest.mark.parametrize("module", ["codec", "codec.cli"])
def test_importing_the_codec_imports_nothing_that_only_training_or_scoring_needs(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"codec", "torch"} <= loaded
    heavy = {"hydra", "omegaconf", "wandb", "tensorboard", "matplotlib", "jinja2", "rich", "scipy", "torchaudio"}
    heavy |= {"torchmetrics", "pesq", "pystoi", "visqol", "onnx", "onnxruntime"}
    assert loaded & (heavy | {"losses", "balancer", "data", "scripts"}) == set()
