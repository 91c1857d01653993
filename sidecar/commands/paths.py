"""What commands share that ask the control API: paths, calls, and pages of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from sidecar.commands.environment import client_settings


def path_of(*parts: str) -> str:
    """Return the path of something below /v1."""
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


def account_path(account: str, *rest: str) -> str:
    """Return the path of an account, or of something in it."""
    return path_of("accounts", account, *rest)


def call_control(
    data_dir: Path | None,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the JSON answer of a call. Raises what `ControlCalls` does."""
    from sidecar.commands.control_calls import ControlCalls

    return ControlCalls(client_settings(data_dir)).call(method, path, body, params)


def print_page(
    page: Mapping[str, Any],
    columns: Sequence[str],
    line: Callable[[dict[str, Any]], Sequence[Any]],
    as_json: Any,
    is_json: bool,
) -> None:
    """Print the rows of a page as a table, or `as_json` as JSON."""
    from sidecar.commands.output import print_json, print_table

    if is_json:
        print_json(as_json)
        return
    print_table(columns, [line(row) for row in page["data"]])
    if page["next_cursor"]:
        click.echo(f"There are more: --cursor {page['next_cursor']}")


def page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--limit` and `--cursor` to a command that lists."""
    command = click.option("--cursor", help="`next_cursor` of the page before.")(command)
    limits = click.IntRange(1, 1000)
    option = click.option("--limit", type=limits, default=20, show_default=True, help="Most rows.")
    return option(command)
