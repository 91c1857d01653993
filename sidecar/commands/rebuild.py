"""`rebuild`: give up what Redis has, and lend it again from the ledger."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidecar.amounts import counted
from sidecar.commands.asking import require_consent
from sidecar.commands.environment import (
    client_settings,
    data_dir_option,
    json_option,
    yes_option,
)
from sidecar.commands.stores import ledger_of
from sidecar.errors import CreditsError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from persistence.rebuilding import Rebuild, Stage

_LOOK_SECONDS: Final = 0.1

_WHAT: Final = """\
{shards}: everything that Redis has there is given up, and lent again from the ledger.
The accounts are answered 503 for about a second. It needs a running worker, and the journals of
all live sidecars; nothing that was acknowledged is lost."""


class NothingToRebuild(CreditsError):
    """Raised when no worker has opened a shard yet, or a shard is not in the ledger."""


@click.command()
@click.option(
    "--shard",
    "shards",
    type=click.IntRange(0, 998),
    multiple=True,
    help="Only this one; may be repeated. [default: all]",
)
@yes_option
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds to wait until all is lent again.",
)
@data_dir_option
@json_option
def rebuild(
    shards: tuple[int, ...],
    is_sure: bool,
    wait_seconds: float,
    data_dir: Path | None,
    is_json: bool,
) -> None:
    """Give up what Redis has, and lend it again from the ledger.

    For a Redis that is not believed, although no worker noticed: a backup was restored, someone
    changed keys, the audit found a difference. Exit status: 0 all is lent again, 1 not within the
    wait (it goes on by itself).

    \b
    Examples:
      credit-sidecar rebuild
      credit-sidecar rebuild --shard 7 --shard 12 --yes
      credit-sidecar rebuild --yes --wait 300 --json
    """
    with ledger_of(client_settings(data_dir), "rebuild") as engine:
        one = _rebuild_of(engine, shards)
        named = counted(len(one.shards), "shard") if shards else f"All {len(one.shards)} shards"
        click.echo(_WHAT.format(shards=named), err=True)
        require_consent("Go on?", is_sure=is_sure)
        started = time.monotonic()
        one.begin()
        with _bar(len(one.shards)) as show:
            stage = _follow(one, started + wait_seconds, show)
    _print(stage, time.monotonic() - started, is_json=is_json)
    sys.exit(0 if stage.is_done else 1)


def _rebuild_of(engine: Engine, shards: tuple[int, ...]) -> Rebuild:
    from persistence.rebuilding import Rebuild, unknown_shards

    with engine.connect() as connection:
        unknown = unknown_shards(connection, shards)
    if unknown:
        raise NothingToRebuild(f"The ledger has no shard {', '.join(map(str, unknown))}.")
    one = Rebuild(engine, shards or None)
    if not one.shards:
        raise NothingToRebuild("No worker has opened these shards yet: Redis has nothing of them.")
    return one


def _follow(one: Rebuild, deadline: float, show: Callable[[Stage], None]) -> Stage:
    while True:
        stage = one.look()
        show(stage)
        if stage.is_done or time.monotonic() >= deadline:
            return stage
        time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _bar(shards: int) -> Iterator[Callable[[Stage], None]]:
    """Show on standard error how far it is; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(16),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("marked", total=shards)
        yield lambda stage: bar.update(task, completed=stage.open, description=describe(stage))


def describe(stage: Stage) -> str:
    """Return in a few words what a rebuild waits for."""
    if stage.suspect:
        return f"{counted(stage.suspect, 'shard')} to be given up by a worker"
    if stage.draining:
        names = ", ".join(stage.waiting_for) or "a worker"
        return f"{counted(stage.draining, 'shard')} waiting for the journals of {names}"
    if stage.accounts:
        return f"{counted(stage.accounts, 'account')} to be reopened"
    return "done"


def _print(stage: Stage, seconds: float, *, is_json: bool) -> None:
    if is_json:
        from sidecar.commands.output import print_json

        about: dict[str, Any] = {"done": stage.is_done, "seconds": round(seconds, 3)}
        print_json(about | dataclasses.asdict(stage))
        return
    if stage.is_done:
        click.secho(
            f"Rebuilt {counted(stage.shards, 'shard')} in {seconds:.1f} s.", fg="green", bold=True
        )
        return
    click.secho(f"Not done after {seconds:.0f} s: {describe(stage)}.", fg="red", bold=True)
    click.echo("It goes on by itself. `credit-sidecar doctor` says what keeps it.")
