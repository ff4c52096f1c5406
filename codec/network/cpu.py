"""What the kernel tells of the CPU."""

import platform
from functools import cache
from pathlib import Path

__all__ = ["cpu_facts", "made_by_amd"]

_CPUINFO = Path("/proc/cpuinfo")


def cpu_facts() -> dict[str, str]:
    """`flags`, `vendor_id`, `model name` ... of the first processor; nothing where it does not say, as on macOS."""
    first = _CPUINFO.read_text().split("\n\n", 1)[0] if _CPUINFO.exists() else ""
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


@cache
def made_by_amd() -> bool:
    """Whether MKL, which is made by Intel, may take ways that are slow here."""
    return "AuthenticAMD" in cpu_facts().get("vendor_id", platform.processor())
