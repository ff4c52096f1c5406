"""What the kernel reports about the CPU."""

from pathlib import Path

__all__ = ["cpu_facts"]

_CPUINFO = Path("/proc/cpuinfo")


def cpu_facts() -> dict[str, str]:
    """`flags`, `vendor_id`, `model name` ... of the first processor; empty where there is no such file, as on macOS."""
    first = _CPUINFO.read_text().split("\n\n", 1)[0] if _CPUINFO.exists() else ""
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
