"""Which package may import which: parts stay usable without the trainer, and one place reads configs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("losses", "balancer", "data", "codec", "scripts")

# What each part may import of ours, besides itself. The longest prefix of a module's name decides. A part of `ANYWHERE`
# may be imported by all of `codec`, `data` and `scripts`.
ANYWHERE = {"codec.atomic_file", "codec.folder_lock", "codec.ranges", "codec.tensor_file"}
ISOLATED = {"losses", "balancer", "codec.network", "codec.quantization"}
MODEL = {"codec.config", "codec.network", "codec.quantization", "codec.streaming", "codec.model", "codec.model_file"}
MODELS = MODEL | {"codec.checkpoint_file", "codec.models"}
FILES = MODELS | {"codec.audio", "codec.bitstream", "codec.coding"}
ALLOWED: dict[str, set[str]] = {
    "losses": set(),
    "balancer": set(),
    "codec.atomic_file": set(),
    "codec.folder_lock": set(),
    "codec.tensor_file": set(),
    "codec.workers": set(),
    "codec.bundled": set(),
    "codec.audio": set(),
    "codec.ranges": set(),
    "codec.network": {"codec.ranges"},
    "codec.quantization": {"codec.ranges"},
    "codec.config": set(),
    "codec.streaming": {"codec.config", "codec.network", "codec.quantization"},
    "codec.model": {"codec.audio", "codec.config", "codec.network", "codec.quantization", "codec.streaming"},
    "codec.model_file": {"codec.config", "codec.model", "codec.network", "codec.quantization"},
    "codec.checkpoint_file": {"codec.model", "codec.model_file"},
    "codec.models": MODEL | {"codec.bundled", "codec.checkpoint_file"},
    "codec": FILES | {"codec.cli", "codec.commands", "codec.commands.options"},
    "codec.interop": MODEL | {"codec.bitstream"},
    "codec.bitstream": {"codec.config", "codec.network"},
    "codec.coding": FILES,
    "codec.tokens": FILES | {"codec.workers"},
    "codec.commands": FILES
    | {"codec.bundled", "codec.commands.options", "codec.interop", "codec.tokens", "codec.workers"},
    "codec.commands.options": {"codec.bundled"},
    "codec.evaluation": FILES | {"losses", "data"},
    "codec.training": MODELS | {"codec.audio", "codec.evaluation", "losses", "balancer", "data"},
    "data": {"codec.audio"},
    "scripts": FILES | {"codec.interop", "codec.evaluation", "codec.training", "losses", "balancer", "data", "codec"},
}
# One command evaluates. It imports what it needs when it runs.
EXCEPTIONS = {
    "codec.commands.evaluate": {"codec.evaluation"},
    # They check a text for --raw and for --shard-size.
    "codec.commands.options.encode": {"codec.audio"},
    "codec.commands.options.tokenize": {"codec.tokens"},
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
    allowed = ALLOWED[part] | EXCEPTIONS.get(module, set()) | {part} | (ANYWHERE if part not in ISOLATED else set())
    found = []
    for name in sorted(imported_modules(module, is_package, source)):
        target = part_of(name)
        if (target is not None and target not in allowed) or (
            name.split(".")[0] in CONFIG_READERS and part != "scripts"
        ):
            found.append(f"{module} imports {name}")
    return found


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module in the packages."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if file.name == "__init__.py" else parts)] = file
    return found


def test_every_import_points_in_the_allowed_direction() -> None:
    files = modules()
    assert {"codec.model", "codec.network.seanet"} <= files.keys()
    found = []
    for module, file in files.items():
        found += violations(module, file.name == "__init__.py", file.read_text("utf-8"))
    assert found == []


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The nodes that can reach themselves, by the sets of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reach = {node: reached(node) for node in graph}
    groups = {frozenset(n for n in reach[node] if node in reach.get(n, set())) for node in graph if node in reach[node]}
    return sorted(sorted(group) for group in groups)


def test_no_modules_import_each_other() -> None:
    """Also not inside functions or behind TYPE_CHECKING."""
    files = modules()
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        names = imported_modules(module, file.name == "__init__.py", file.read_text("utf-8"))
        targets = {name if name in files else name.rpartition(".")[0] for name in names}
        # A package's __init__ imports its modules, and they may import each other, but not the package.
        graph[module] = {target for target in targets if target in files and target != module}
    assert circles(graph) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


@pytest.mark.parametrize(
    ("module", "source", "caught"),
    [
        ("losses.waveform", "import torch\nfrom losses.spectral import MelLoss", False),
        ("losses.waveform", "from codec import Codec", True),
        ("losses.waveform", "from codec.ranges import Size", True),
        ("codec.network.conv", "from codec.ranges import Size", False),
        ("losses.waveform", "def f():\n    import balancer.balancer as b", True),
        ("codec.model", "from codec.network import SEANet", False),
        ("codec.model", "from . import config", False),
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
        ("codec.network.conv", "from codec.network import channels_last", False),
        ("codec.network.conv", "from codec.config import CodecConfig", True),
        ("codec.quantization.residual", "from codec.atomic_file import atomic_write", True),
        ("codec.audio.reader", "from codec.atomic_file import atomic_write", False),
        ("codec.bitstream.writer", "from codec.model import Codec", True),
        ("data.segments", "from codec.audio import read_audio", False),
        ("data.segments", "from codec.model import Codec", True),
        ("codec.audio.reader", "from codec.model import Codec", True),
        ("data.segments", "import database, codecs", False),
    ],
)
def test_the_check_can_fail(module: str, source: str, caught: bool) -> None:
    assert bool(violations(module, False, source)) == caught


def test_no_file_has_a_meaningless_name() -> None:
    names = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py", "builders.py"}
    assert [str(file) for package in PACKAGES for file in (ROOT / package).rglob("*.py") if file.name in names] == []


def loaded_by(*modules: str) -> set[str]:
    """The packages that a new process has loaded after it has imported modules."""
    code = f"import sys, {', '.join(modules)}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_importing_the_codec_imports_nothing_that_only_training_or_evaluation_needs() -> None:
    loaded = loaded_by("codec.api", "codec.commands.encode", "codec.commands.decode", "codec.commands.info")
    assert {"codec", "torch"} <= loaded
    heavy = {"hydra", "omegaconf", "wandb", "tensorboard", "matplotlib", "jinja2", "rich", "scipy", "torchaudio"}
    heavy |= {"torchmetrics", "pesq", "pystoi", "visqol", "onnx", "onnxruntime"}
    assert loaded & (heavy | {"losses", "balancer", "data", "scripts"}) == set()


def test_help_and_errors_of_usage_import_only_the_standard_library() -> None:
    loaded = loaded_by("codec", "codec.cli", "codec.commands.options.program")
    ours = {"codec", "sitecustomize", "usercustomize"}
    installed = {name for name in loaded - ours - set(sys.stdlib_module_names) if not name.startswith("_")}
    assert installed == set()
