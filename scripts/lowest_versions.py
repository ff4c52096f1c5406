"""Prints the lowest dependency versions that pyproject.toml allows, as constraints for pip.

python -m scripts.lowest_versions > lowest.txt
pip install --constraint lowest.txt --editable .[test]
"""

import re
import tomllib
from pathlib import Path

_PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?(?P<versions>[<>=!~][^;]*|)(;.*)?")


def lowest_versions(pyproject: str) -> dict[str, str]:
    """Lowest allowed version of each dependency and optional dependency.

    Args:
        pyproject: text of a pyproject.toml. Extras of the project itself, as in `name[extra]`, are skipped.

    Raises:
        ValueError: a dependency has no lower bound (`>=`), or two different ones.
    """
    project = tomllib.loads(pyproject)["project"]
    groups = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    found: dict[str, str] = {}
    for requirement in (text for group in groups for text in group):
        parsed = _REQUIREMENT.fullmatch(requirement.replace(" ", ""))
        if parsed is None:
            raise ValueError(f"expected a dependency like name>=1.2, got {requirement!r}")
        name, lowest = parsed["name"], re.findall(r">=([^,]+)", parsed["versions"])
        if name == project["name"]:
            continue
        if len(lowest) != 1 or found.setdefault(name, lowest[0]) != lowest[0]:
            raise ValueError(f"{name} needs exactly one lower bound (>=) in pyproject.toml, got {requirement!r}")
    return found


if __name__ == "__main__":
    for dependency, version in sorted(lowest_versions(_PYPROJECT.read_text(encoding="utf-8")).items()):
        print(f"{dependency}=={version}")
