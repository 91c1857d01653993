"""`audit`: show, while everything runs, that no credit was lost or invented."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.commands.environment import client_settings, data_dir_option, json_option
from sidecar.commands.stores import ledger_of, nodes_of
from sidecar.settings import Settings

if TYPE_CHECKING:
    from persistence.audit import AuditLine, AuditReport, Progress


@click.command()
@click.option(
    "--account",
    "accounts",
    multiple=True,
    help="Compare only this one with Redis; may be repeated. [default: all]",
)
@click.option(
    "--ledger-only", is_flag=True, help="Leave the comparison of Redis with the ledger out."
)
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="Seconds that events may take to reach the ledger.",
)
@data_dir_option
@json_option
def audit(
    accounts: tuple[str, ...],
    ledger_only: bool,
    wait_seconds: float,
    data_dir: Path | None,
    is_json: bool,
) -> None:
    """Prove that no credit was lost or invented, while everything runs.

    Each line must be zero: the ledger's own sums, its hash chain and sequence numbers, and every
    account in Redis against the ledger, exactly. Exit status: 0 all zero, 1 not.

    \b
    Examples:
      credit-sidecar audit
      credit-sidecar audit --account demo
      credit-sidecar audit --json > report.json
    """
    from sidecar.commands.output import print_json

    settings = client_settings(data_dir)
    with _progress() as progress:
        report = _audit(settings, accounts, wait_seconds, progress, has_redis=not ledger_only)
    if is_json:
        print_json(report.to_dict())
    else:
        _print(report)
    sys.exit(0 if report.is_ok else 1)


def _audit(
    settings: Settings,
    accounts: tuple[str, ...],
    wait_seconds: float,
    progress: Progress,
    *,
    has_redis: bool,
) -> AuditReport:
    from persistence import audit as audits

    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(ledger_of(settings, "audit"))
        nodes = stack.enter_context(nodes_of(settings)) if has_redis else None
        return audits.audit(
            engine, nodes, progress=progress, accounts=accounts or None, wait_s=wait_seconds
        )


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Show on standard error what is looked at; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from persistence.audit_sql import LINES

    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=len(LINES) + 1)

        def say(step: str) -> None:
            # `line: detail` is news of the line at work; `line` alone begins the next one.
            is_detail = ":" in step
            bar.update(task, advance=0 if is_detail else 1, description=step)

        yield say


def _print(report: AuditReport) -> None:
    from sidecar.commands.output import print_table

    columns = ("", "line", "invariant", ">wrong", ">looked at", ">seconds")
    print_table(columns, [_row(line) for line in report.lines])
    for line in report.lines:
        for sample in line.samples:
            click.echo(f"{line.name}: {sample}")
    verdict = "Every line is zero." if report.is_ok else f"{report.discrepancies} are wrong."
    click.secho(verdict, fg="green" if report.is_ok else "red", bold=True)


def _row(line: AuditLine) -> tuple[str, ...]:
    mark = "✓" if line.is_ok else "✗"
    looked_at = "all" if line.checked is None else str(line.checked)
    return (
        mark,
        line.name,
        line.invariant,
        str(line.discrepancies),
        looked_at,
        f"{line.seconds:.2f}",
    )
