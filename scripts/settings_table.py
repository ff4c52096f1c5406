"""Prints docs/settings.md from the YAML files in configs/: `python -m scripts.settings_table > docs/settings.md`.

A setting's meaning is the comment behind it, or the comment lines above it. The first comment of a file describes the
option that the file is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_HEADER = """\
# Settings

This page is generated from the comments in `configs/`: `python -m scripts.settings_table > docs/settings.md`.

On the command line, `key=value` changes one setting and `group=option` swaps a part: `OPTION.yaml` in `configs/GROUP/`.
`bash scripts/train.sh name=x --cfg job` prints all settings of a run and does not start it.
"""


class Setting(NamedTuple):
    """One setting of a YAML file."""

    key: str  # with dots, as on the command line
    default: str  # as in the file
    meaning: str  # "" if there is no comment


def _comment(line: str) -> str:
    """The comment at the end of a line. Values of the configuration contain no `#` of their own."""
    return line.partition("#")[2].strip()


def option_comment(text: str) -> str:
    """The comment lines at the top of a file, without Hydra's `@package` line."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(_comment(line))
    return " ".join(lines)


def _default(value: yaml.Node, text: str) -> str:
    """The value as the file has it, on one line."""
    if isinstance(value, yaml.SequenceNode) and not value.flow_style:
        return f"[{', '.join(text[item.start_mark.index : item.end_mark.index] for item in value.value)}]"
    return " ".join(text[value.start_mark.index : value.end_mark.index].split())


def settings_of(text: str) -> list[Setting]:
    """Settings of a YAML file in order. Hydra's own keys and the classes (`_target_`) are left out."""
    lines = text.splitlines()

    def meaning(row: int) -> str:
        if _comment(lines[row]):
            return _comment(lines[row])
        above: list[str] = []
        while row - len(above) > 0 and lines[row - len(above) - 1].lstrip().startswith("#"):
            above.insert(0, _comment(lines[row - len(above) - 1]))
        return "" if row == len(above) else " ".join(above)  # a comment that begins the file describes the option

    def walk(node: yaml.MappingNode, path: str) -> Iterator[Setting]:
        for key, value in node.value:
            name = f"{path}{key.value}"
            if key.value in {"_target_", "_partial_"} or name in {"defaults", "hydra"}:
                continue
            nested = [(name, value)]
            if isinstance(value, yaml.SequenceNode):
                nested = [(f"{name}.{i}", item) for i, item in enumerate(value.value)]
            nested = [(n, v) for n, v in nested if isinstance(v, yaml.MappingNode) and not v.flow_style]
            comment = meaning(key.start_mark.line)
            if comment or not nested:
                yield Setting(name, "" if nested else _default(value, text), comment)
            for inner, mapping in nested:
                yield from walk(mapping, f"{inner}.")

    root = yaml.compose(text)
    return list(walk(root, "")) if isinstance(root, yaml.MappingNode) else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(settings: list[Setting]) -> list[str]:
    rows = [f"| `{s.key}` | {f'`{_cell(s.default)}`' if s.default else ''} | {_cell(s.meaning)} |" for s in settings]
    return ["| key | default | meaning |", "|---|---|---|", *rows, ""]


def _group_lines(group: Path, chosen: str | None) -> list[str]:
    """Options of a group and their settings.

    A group whose options share their settings has a `chosen` one. Others then list only what they add or comment on.
    """
    name = group.relative_to(CONFIGS).as_posix()
    options = sorted(group.glob("*.yaml"), key=lambda path: (path.stem != chosen, path.stem))
    lines = [f"## `{name}`", "", "| option | |", "|---|---|"]
    lines += [f"| `{path.stem}` | {_cell(option_comment(path.read_text(encoding='utf-8')))} |" for path in options]
    lines.append("")
    if name == "experiment":  # each is a list of changes to other groups
        return lines
    package = name.removesuffix("/engine").replace("/", ".")  # the balancers place their engine beside their slots
    seen: set[str] = set()
    for path in options:
        text = path.read_text(encoding="utf-8")
        in_place = "# @package" in text
        settings = [s._replace(key=s.key if in_place else f"{package}.{s.key}") for s in settings_of(text)]
        new = [s for s in settings if chosen is None or s.key not in seen or s.meaning not in seen | {""}]
        seen |= {word for s in new for word in (s.key, s.meaning)}
        if new:
            lines += [f"`{name}={path.stem}`", "", *_table(new)]
    return lines


def settings_page() -> str:
    """The text of docs/settings.md."""
    page = [_HEADER]
    train = (CONFIGS / "train.yaml").read_text(encoding="utf-8")
    chosen = {g: o for d in yaml.safe_load(train)["defaults"] if isinstance(d, dict) for g, o in d.items()}
    page += ["## `bash scripts/train.sh`", "", option_comment(train), "", *_table(settings_of(train))]
    for group in sorted({path.parent for path in CONFIGS.rglob("*.yaml")} - {CONFIGS}):
        page += _group_lines(group, chosen.get(group.relative_to(CONFIGS).as_posix()))
    ablate = (CONFIGS / "ablate.yaml").read_text(encoding="utf-8")
    page += ["## `bash scripts/ablate.sh`", "", option_comment(ablate), "", *_table(settings_of(ablate))]
    return "\n".join(page).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(settings_page(), end="")
