"""How commands print: JSON for programs, tables and short sentences for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; a column whose name begins with `>` is right-aligned."""
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for column in columns:
        justify: Any = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), justify=justify, overflow="fold")
    for row in rows:
        # As text, not as a string: Rich would take what stands in brackets for its own.
        table.add_row(*[Text("" if value is None else str(value)) for value in row])
    Console(highlight=False).print(table)


def format_instant(at_ms: int | None) -> str:
    """Return an instant (Unix milliseconds) in UTC; None is `never`."""
    if at_ms is None:
        return "never"
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError):
        return f"{at_ms} ms"
