"""What is known of the CPU."""

from pathlib import Path

import pytest

from codec.network.cpu import made_by_amd


def test_only_amd_is_taken_for_amd(vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made_by_amd() == (vendor == "AuthenticAMD")
    made_by_amd.cache_clear()
    monkeypatch.setattr("codec.network.cpu._CPUINFO", Path("nowhere"))
    monkeypatch.setattr("platform.processor", lambda: "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD")
    assert made_by_amd()
