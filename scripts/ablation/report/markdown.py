"""The tables of an ablation as Markdown, for a paper or a README."""

from collections.abc import Iterable, Sequence

from scripts.ablation.report.tables import Entry, Row, Table

__all__ = ["markdown"]


def markdown(tables: Iterable[Table]) -> str:
    """Every table below its caption. What is best, better or worse beyond chance is bold."""
    return "\n\n".join(f"**{_cell(table.caption)}**\n\n{_table(table)}" for table in tables) + "\n"


def _table(table: Table) -> str:
    above = [label for label, span in table.spans for _ in range(span)] or [""] * len(table.head)
    head = [f"{label}: {name}" if label else name for label, name in zip(above, table.head, strict=True)]
    rows = [_row(row) for body in table.bodies for row in body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ([_cell(name) for name in head], _rule(head), *rows))


def _rule(head: Sequence[str]) -> list[str]:
    return ["---", *["---:"] * (len(head) - 1)]


def _row(row: Row) -> list[str]:
    name = f"{row.name} ({row.note})" if row.note else row.name
    return [_cell(name), *(cell for entry in row.entries for cell in (_entry(entry), *[""] * (entry.span - 1)))]


def _entry(entry: Entry) -> str:
    text = _cell(f"{entry.text}, {entry.detail}" if entry.detail else entry.text)
    return f"**{text}**" if entry.mark in ("best", "better", "worse") else text


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("\n", " ")
