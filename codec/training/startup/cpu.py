"""What the kernel reports about the CPU."""

import math
from pathlib import Path

__all__ = ["cpu_facts", "cpu_quota"]

_CPUINFO = Path("/proc/cpuinfo")


def cpu_facts() -> dict[str, str]:
    """`flags`, `vendor_id`, `model name` ... of the first processor; empty where there is no such file, as on macOS."""
    first = _CPUINFO.read_text().split("\n\n", 1)[0] if _CPUINFO.exists() else ""
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float:
    """CPU cores whose time this process may use, in a container for example: the least quota of its control groups.

    Infinity without a quota, or without version 2 of control groups.

    Args:
        root: Where control groups are mounted.
        groups: The file that names those of this process.
    """
    lines = groups.read_text().splitlines() if groups.exists() else []
    group = root / next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    files = [folder / "cpu.max" for folder in (group, *group.parents) if folder.is_relative_to(root)]
    limits = [file.read_text().split() for file in files if file.exists()]  # such as "max 100000", in microseconds
    return min((int(quota) / int(period) for quota, period in limits if quota != "max"), default=math.inf)
