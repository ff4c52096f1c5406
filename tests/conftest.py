"""Every test starts from the same seeds and on one thread, so that it can be rerun alone with the same result."""

import gc
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

# Threads that wait sleep instead of spinning: on cores that another process shares, spinning makes the many small
# operations of these tests up to a hundred times slower. OpenMP reads this once, when torch is imported; processes
# that tests start inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A user may have set it. The commands that tests start would print tracebacks in place of a line.
os.environ.pop("HYDRA_FULL_ERROR", None)

import numpy as np
import pytest
import torch

from browser import Browser, chromium
from config_files import combine_once
from forks import Forks, fork_server
from slow_modules import SLOW

# A second thread makes tensors as small as the tests' slower. Tests of the number of threads set it themselves.
torch.set_num_threads(1)

# Shells start background jobs (`bash scripts/test.sh &`, some CI) with SIGINT ignored, nohup ignores SIGHUP, and child
# processes inherit that. A signal that has a handler is reset to its default when a new program starts. So the
# processes that tests start can be interrupted. pytest-xdist imports this file in each of its workers.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)  # the tests themselves go on ignoring it

combine_once()

TESTS = Path(__file__).parent
SLOW_PATHS = {TESTS / name for name in SLOW}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The fast tests do not import the slow files, whose packages take seconds to import."""
    return True if config.getoption("markexpr") == "fast" and collection_path in SLOW_PATHS else None


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as `fast` what is neither marked slow or long nor in a slow file."""
    for item in items:
        if SLOW_PATHS.isdisjoint([item.path, *item.path.parents]) and not {"slow", "long"} & {
            m.name for m in item.iter_markers()
        }:
            item.add_marker("fast")


def pytest_collection_finish() -> None:
    """What is loaded now stays to the end. Without it, garbage collection takes a fifth less of Hydra's time, and when
    it happens does not depend on how many modules are loaded.
    """
    gc.collect()
    gc.freeze()


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (whatever still draws from NumPy's global generator)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """Fixtures of a module or session are set up before `_seeded`, after whichever tests this process ran before."""
    if fixturedef.scope != "function":
        _seed()


@pytest.fixture(scope="session")
def chromium_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests of pages in this process, because its start takes a second or more."""
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """One server of forks for all tests in this process, because its imports take seconds."""
    with fork_server() as server:
        yield server
