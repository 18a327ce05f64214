"""A front of a design space as a table: a line for each point, or a column where names need more room."""

from __future__ import annotations

from typing import Any

LINES, COLUMNS = 40, 24  # points that are shown as lines of one table, or as columns of several


def show_front(console: Any, front: list[dict[str, Any]]) -> None:
    """Print the points of a front: a line each, or a column each where whole names need more room."""
    if not front:
        return
    console.print(f"the front, {len(front)} points:")
    heads, rows = _short(list(front[0])), [[_cell(value) for value in row.values()] for row in front]
    wide = [max(len(head), *(_width(row[i]) for row in rows[:LINES])) for i, head in enumerate(heads)]
    if sum(wide) + len(wide) <= console.width:
        shown = rows[:LINES]
        _print_table(console, [heads, *shown])
    else:
        shown = rows[:COLUMNS]
        _print_columns(console, heads, shown)
    if len(rows) > len(shown):
        console.print(f"... and {len(rows) - len(shown)} more in the table")


def _print_columns(console: Any, heads: list[str], rows: list[list[str]]) -> None:
    """Print points side by side, as many in one table as the console is wide."""
    while rows:
        part = _fitting(rows, max(map(len, heads)), console.width)
        _print_table(console, [list(line) for line in zip(heads, *rows[:part], strict=True)])
        rows = rows[part:]
        console.print()


def _cell(value: Any) -> str:
    """Write one value; a mapping (kept as JSON) with a line for each of its settings."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and value.startswith("{"):
        import json

        return "\n".join(f"{key} {setting}" for key, setting in json.loads(value).items())
    return str(value)


def _width(cell: str) -> int:
    return max(map(len, cell.split("\n")))


def _fitting(rows: list[list[str]], head: int, width: int) -> int:
    """Return how many points fit side by side; at least one."""
    taken = head
    for n, row in enumerate(rows):
        taken += 1 + max(map(_width, row))
        if taken > width:
            return max(n, 1)
    return len(rows)


def _print_table(console: Any, lines: list[list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for head in lines[0]:
        table.add_column(Text(head), overflow="fold")
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    console.print(table)


def _short(names: list[str]) -> list[str]:
    """Return the last step of each dotted name, or more steps where two would be alike."""
    for steps in range(1, 9):
        short = [".".join(name.split(".")[-steps:]) for name in names]
        if len(set(short)) == len(names):
            return short
    return names
