"""Prints listings: a table that people can read, or JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# A pipe or file has no width: a table there is as wide as its longest line, so that one row is one line.
UNBOUNDED_COLUMNS = 10_000


def print_json(value: Any) -> None:
    """Prints one JSON document to standard output."""
    json.dump(value, sys.stdout, indent=2, sort_keys=False, default=str)
    sys.stdout.write("\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table to standard output; None shows as a dash. Cells are plain text: brackets are not styles."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else UNBOUNDED_COLUMNS)
    # not the table's own title, which is folded to the table's width
    console.print(Text(title if rows else f"{title}: none", style="italic"), soft_wrap=True)
    if not rows:
        return
    table = Table(header_style="bold", box=None, pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    console.print(table)


def print_listing(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Prints rows of equal keys as a table of the named columns, or all of them as a JSON list."""
    if as_json:
        print_json(list(rows))
    else:
        heads = [column.replace("_", " ") for column in columns]
        print_table(title, heads, [[row.get(column) for column in columns] for row in rows])


def local_time(unix_seconds: float | None) -> str | None:
    """Seconds since 1970 to ISO time in the local zone, to the second, with the zone's offset; 0 and None to None."""
    if not unix_seconds:
        return None
    return datetime.fromtimestamp(unix_seconds, UTC).astimezone().isoformat(sep=" ", timespec="seconds")
