"""`reconcile`: fetch from Stripe what no webhook brought, and say what that was."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidecar.commands.environment import client_settings, data_dir_option, json_option
from sidecar.commands.stores import ledger_of
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sidecar.billing.reconciler import Progress, Report

_UNITS_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PASSES: Final = ("events", "objects", "subscriptions")
_SAMPLES: Final = 5


class Age(click.ParamType[int]):
    """How long ago: `90m`, `36h` or `7d`, as milliseconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read an age. Fails for what is none."""
        match = re.match(r"^([1-9][0-9]{0,5})([mhd])\Z", str(value))
        if match is None:
            self.fail(f"{value} is no age such as 90m, 36h or 7d.", param, ctx)
        return int(match.group(1)) * _UNITS_MS[match.group(2)]


@click.command()
@click.option(
    "--since",
    "age_ms",
    type=Age(),
    default="1d",
    show_default=True,
    help="How far back to look, such as 90m, 36h or 7d.",
)
@click.option(
    "--only", type=click.Choice(_PASSES), multiple=True, help="Only this pass; may be repeated."
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Say what is missing, and store nothing.")
@data_dir_option
@json_option
def reconcile(
    age_ms: int, only: tuple[str, ...], is_dry: bool, data_dir: Path | None, is_json: bool
) -> None:
    """Fetch from Stripe what no webhook brought.

    Events (Stripe keeps them for 30 days), then payments, refunds, disputes, invoices and
    subscriptions themselves. What is missing is stored in the inbox, and a worker applies it, once
    however often it is found. Exit status: 0 nothing was missing, 1 something was.

    \b
    Examples:
      credit-sidecar reconcile
      credit-sidecar reconcile --since 7d --dry-run
      credit-sidecar reconcile --since 30d --only events --json
    """
    from sidecar.commands.output import print_json

    settings = client_settings(data_dir)
    reports = _run(settings, only or _PASSES, age_ms, is_dry=is_dry)
    if is_json:
        print_json({"dry_run": is_dry, "passes": [_as_dict(report) for report in reports]})
    else:
        _print(reports, is_dry=is_dry)
    sys.exit(1 if any(report.found for report in reports) else 0)


def _run(settings: Settings, passes: tuple[str, ...], age_ms: int, *, is_dry: bool) -> list[Report]:
    from sidecar.billing.reconciler import Reconciler
    from sidecar.billing.reconciling import run_pass
    from sidecar.billing.stripe_api import StripeApi
    from sidecar.billing.webhook import mode_of

    settings.require("stripe_secret_key")
    now_ms = time.time_ns() // 1_000_000
    with ledger_of(settings, "reconcile") as engine, _progress() as progress:
        reconciler = Reconciler(
            engine,
            StripeApi(settings.stripe_secret_key, settings.stripe_api_base),
            lambda: time.time_ns() // 1_000_000,
            livemode=bool(mode_of(settings.stripe_secret_key)),
            is_dry=is_dry,
            progress=progress,
        )
        return [run_pass(reconciler, name, now_ms - age_ms) for name in _PASSES if name in passes]


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Show on standard error how much was looked at; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def say(name: str, seen: int, found: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=None)
            bar.update(tasks[name], description=f"{name}: {seen} looked at, {found} missing")

        yield say


def _as_dict(report: Report) -> dict[str, Any]:
    return {
        "pass": report.name,
        "seen": report.seen,
        "found": report.found,
        "late": report.late,
        "missing": report.missing,
    }


def _print(reports: list[Report], *, is_dry: bool) -> None:
    from sidecar.commands.output import print_table

    columns = ("pass", ">looked at", ">missing", ">late")
    rows = [(r.name, str(r.seen), str(r.found), str(r.late)) for r in reports]
    print_table(columns, rows)
    for report in reports:
        for kind, ids in sorted(report.missing.items()):
            shown = ", ".join(ids[:_SAMPLES]) + (", …" if len(ids) > _SAMPLES else "")
            click.echo(f"{kind}: {len(ids)} ({shown})")
    found = sum(report.found for report in reports)
    if not found:
        click.secho("Nothing was missing.", fg="green", bold=True)
    elif is_dry:
        click.secho(f"{found} are missing; nothing was stored.", fg="yellow", bold=True)
    else:
        click.secho(f"{found} were missing; a worker applies them now.", fg="yellow", bold=True)
