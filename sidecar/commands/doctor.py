"""`doctor`: is everything set up so that no credit can be lost, and if not, what helps."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidecar.commands.environment import (
    client_settings,
    data_dir_option,
    json_option,
    redis_nodes,
)
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from persistence.doctor.checks import Check
    from sidecar.nodes import RedisNodes

_MARKS: Final = {"ok": "✓", "warning": "!", "wrong": "✗", "unknown": "?"}


@click.command()
@click.option("--strict", is_flag=True, help="Warnings too are a failure.")
@data_dir_option
@json_option
def doctor(strict: bool, data_dir: Path | None, is_json: bool) -> None:
    """Check how Redis, Postgres and this host are set up, and what runs.

    For each thing that is not as it should be: what it costs, and what mends it. Changes nothing.
    Exit status: 0 nothing is wrong, 1 something is (with --strict: or there is a warning).

    \b
    Examples:
      credit-sidecar doctor
      credit-sidecar doctor --strict
      credit-sidecar doctor --json > doctor.json
    """
    checks = examine(client_settings(data_dir))
    if is_json:
        _print_json(checks)
    else:
        _print(checks)
    failures = {"wrong", "warning"} if strict else {"wrong"}
    sys.exit(1 if any(check.verdict in failures for check in checks) else 0)


def examine(settings: Settings) -> list[Check]:
    """Return all checks. Raises `SettingsError`."""
    from persistence.database import make_engine
    from persistence.doctor.postgres_checks import check_postgres
    from persistence.doctor.redis_checks import Limits, check_nodes
    from sidecar.commands.host_checks import check_journal

    settings.require("postgres_url")
    limits = Limits(
        settings.redis_memory_alarm_percent,
        settings.redis_memory_refuse_percent,
        settings.redis_timeout_ms,
    )
    name = "credit-sidecar doctor"
    engine = make_engine(settings.postgres_url, application_name=name, pool_size=1)
    nodes = redis_nodes(settings)
    try:
        checks = [*check_nodes(nodes, limits), *check_postgres(engine)]
        return checks + _service(engine, nodes, checks) + check_journal(settings)
    finally:
        engine.dispose()
        nodes.close()


def _service(engine: Engine, nodes: RedisNodes, checks: Sequence[Check]) -> list[Check]:
    """Look at what runs, if both stores answer and the ledger is one that this program knows."""
    from sqlalchemy.exc import DBAPIError

    from persistence.doctor.checks import Check, Verdict
    from persistence.doctor.service_checks import PART, check_service
    from sidecar.nodes import FAULTS

    needed = {"answers", "schema"}
    missing = [f"{c.part} {c.name}" for c in checks if c.name in needed and c.verdict == "wrong"]
    found = f"not looked at: {', '.join(missing)}"
    if not missing:
        try:
            with engine.connect() as connection:
                return check_service(connection, nodes.home)
        except DBAPIError as error:
            found = str(error.orig).partition("\n")[0]
        except FAULTS as error:
            found = str(error)
    cost = "Whether shards are open and roles alive cannot be seen."
    fix = "Mend what is wrong above, and look again."
    return [Check(PART, "roles", Verdict.UNKNOWN, found, cost, fix)]


def _print_json(checks: Sequence[Check]) -> None:
    from sidecar.commands.output import print_json

    counts = _counts(checks)
    answer: dict[str, Any] = {"ok": not counts["wrong"], **counts}
    print_json(answer | {"checks": [dataclasses.asdict(check) for check in checks]})


def _print(checks: Sequence[Check]) -> None:
    from sidecar.commands.output import print_table

    rows = [(_MARKS[check.verdict], check.part, check.name, check.found) for check in checks]
    print_table(("", "part", "check", "found"), rows)
    for check in checks:
        if check.verdict != "ok":
            click.echo()
            click.secho(f"{_MARKS[check.verdict]} {check.part}: {check.name}", bold=True)
            click.echo(f"  {check.cost}\n  Fix: {check.fix}")
    counts = _counts(checks)
    named = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    colour = "red" if counts["wrong"] else "yellow" if counts["warning"] else "green"
    click.echo()
    click.secho(f"{named}." if named else "Everything is as it should be.", fg=colour, bold=True)


def _counts(checks: Sequence[Check]) -> dict[str, int]:
    verdicts = [check.verdict for check in checks]
    return {name: sum(v == name for v in verdicts) for name in ("wrong", "warning", "unknown")}
