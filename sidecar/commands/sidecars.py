"""`sidecars`: who may hold acknowledged usage in a journal, and who is waited for no more."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from sidecar.amounts import counted
from sidecar.commands.asking import require_consent
from sidecar.commands.environment import (
    client_settings,
    data_dir_option,
    json_option,
    yes_option,
)
from sidecar.commands.stores import ledger_of, redis_of
from sidecar.errors import CreditsError, StoreUnavailable
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from persistence.sidecars import SidecarRow


class NoSuchSidecar(CreditsError):
    """Raised when no sidecar that is alive has this id or name, or more than one has the name."""


@click.group(invoke_without_command=True)
@click.option("--all", "with_gone", is_flag=True, help="Also those that are gone.")
@data_dir_option
@json_option
@click.pass_context
def sidecars(context: click.Context, with_gone: bool, data_dir: Path | None, is_json: bool) -> None:
    """List the sidecars, and how many shards wait for each one's journal.

    `alive`: it may have usage in its journal that the ledger has not. `dead`: it was declared
    dead and never came back. `gone`: the ledger has all of it.

    \b
    Examples:
      credit-sidecar sidecars
      credit-sidecar sidecars --all --json
      credit-sidecar sidecars declare-dead gpu-7 --reason "its disk is lost"
    """
    if context.invoked_subcommand is not None:
        return
    from persistence.sidecars import list_sidecars
    from sidecar.commands.output import print_json, print_table

    with ledger_of(client_settings(data_dir), "sidecars") as engine, engine.connect() as connection:
        rows = list_sidecars(connection, with_gone=with_gone)
    if is_json:
        print_json([_described(row) for row in rows])
        return
    columns = ("name", "id", "state", ">last seen", ">since", ">waiting", "reason")
    lines = [_line(row) for row in rows]
    shown = len(columns) if any(row.reason for row in rows) else len(columns) - 1
    print_table(columns[:shown], [line[:shown] for line in lines])
    if not rows:
        click.echo("No sidecar is registered.")


@sidecars.command("declare-dead")
@click.argument("sidecar")
@click.option("--reason", required=True, help="Why; the list shows it.")
@click.option("--force", "is_forced", is_flag=True, help="Although it gives signs of life, or may.")
@yes_option
@data_dir_option
@json_option
def declare_dead(
    sidecar: str, reason: str, is_forced: bool, is_sure: bool, data_dir: Path | None, is_json: bool
) -> None:
    """Wait no more for the journal of a sidecar (its id or name).

    Only for one that was lost together with Redis, and whose disk is lost too: if the disk is
    there, start the sidecar on it instead, and nothing is lost.

    \b
    Examples:
      credit-sidecar sidecars declare-dead gpu-7 --reason "its disk is lost"
      credit-sidecar sidecars declare-dead 0192f0c1-… --reason "host is gone" --yes
    """
    settings = client_settings(data_dir)
    with ledger_of(settings, "sidecars") as engine:
        row = _find(engine, sidecar)
        click.echo(_cost(row), err=True)
        require_consent(f"Declare {row.name} dead?", is_sure=is_sure)
        opened = _declare(settings, engine, row, reason, is_forced=is_forced)
        waiting = _waiting_for(engine)
    if is_json:
        from sidecar.commands.output import print_json

        print_json({"id": str(row.id), "name": row.name, "opened": opened, "waiting_for": waiting})
        return
    click.echo(f"{row.name} ({row.id}) is dead: {counted(opened, 'shard')} opened by that.")
    for name, shards in waiting.items():
        click.echo(f"Still waiting for {name}: {counted(shards, 'shard')}.")


def _find(engine: Engine, sidecar: str) -> SidecarRow:
    from persistence.sidecars import list_sidecars

    with engine.connect() as connection:
        alive = [row for row in list_sidecars(connection) if row.state == "alive"]
    id = _uuid(sidecar)
    found = [row for row in alive if row.id == id or (id is None and row.name == sidecar)]
    if not found:
        raise NoSuchSidecar(
            f"No sidecar that is alive has the name or id {sidecar}:"
            " `credit-sidecar sidecars --all` lists them."
        )
    if len(found) > 1:
        ids = ", ".join(str(row.id) for row in found)
        raise NoSuchSidecar(f"{len(found)} sidecars have the name {sidecar}: give an id ({ids}).")
    return found[0]


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _cost(row: SidecarRow) -> str:
    waited = f"{counted(row.pending, 'shard')} waiting" if row.pending else "nothing waiting"
    return (
        f"Sidecar {row.name} ({row.id}), last seen {_ago(row.seen_ms)} ago: {waited} for its"
        " journal.\n"
        "What this costs: usage that it acknowledged and that only its journal has is lost, or"
        " comes late if it\nreturns with its disk: at most what no worker had flushed when Redis"
        " was lost. Nothing is overspent (0)."
    )


def _declare(
    settings: Settings, engine: Engine, row: SidecarRow, reason: str, *, is_forced: bool
) -> int:
    from persistence import sidecars as ledger
    from persistence.errors import SidecarAlive

    try:
        with redis_of(settings) as client:
            client.ping()
            return ledger.declare_dead(engine, client, row.id, reason, is_forced=is_forced)
    except SidecarAlive:
        raise SidecarAlive(
            f"Sidecar {row.name} ({row.id}) gives signs of life: stop it, or give --force."
        ) from None
    except StoreUnavailable as error:
        if not is_forced:
            raise StoreUnavailable(
                f"{error}. Without Redis nobody can tell whether {row.name} lives: give --force"
                " when you know that it does not."
            ) from error
        return ledger.declare_dead(engine, None, row.id, reason, is_forced=True)


def _waiting_for(engine: Engine) -> dict[str, int]:
    from persistence.recovery import waiting_for

    with engine.connect() as connection:
        return waiting_for(connection)


def _described(row: SidecarRow) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "name": row.name,
        "state": row.state,
        "boot": row.boot,
        "registered_ms": row.registered_ms,
        "seen_ms": row.seen_ms,
        "ended_ms": row.ended_ms,
        "reason": row.reason,
        "shards_waiting": row.pending,
    }


def _line(row: SidecarRow) -> tuple[Any, ...]:
    seen, since = (f"{_ago(at)} ago" for at in (row.seen_ms, row.ended_ms or row.registered_ms))
    return row.name, row.id, row.state, seen, since, row.pending, row.reason


def _ago(at_ms: int) -> str:
    seconds = max(int(time.time() - at_ms / 1000), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
