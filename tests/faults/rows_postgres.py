"""Faults of Postgres: killed while it commits, gone for long, back in time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import monotonic
from typing import Final

import psutil
import sqlalchemy as sa
from sqlalchemy import Engine

from tests.faults.cycle import Cycle
from tests.faults.flood import Flood
from tests.faults.flows import Account
from tests.faults.quiet import flush_lag
from tests.faults.stack import Stack
from tests.faults.truth import make_accounts

_KILLS: Final = 2
FLOOD_RATE: Final = 1_000.0
_LAG_SECONDS: Final = 300.0
_WAL_WRITER_MS: Final = 10_000


def killed_postgres(cycle: Cycle) -> None:
    """`kill -9` of Postgres with all its processes, in the middle of commits."""
    for _ in range(_KILLS):
        kill_postgres(cycle.stack)
        cycle.mark()
        cycle.go_on(0.0, 0.3)
        cycle.stack.postgres.start()
        cycle.go_on(0.2, 1.0)


def short_outage(cycle: Cycle) -> None:
    """Postgres is stopped for some seconds."""
    cycle.stack.postgres.stop()
    cycle.mark()
    cycle.go_on(3.0, 8.0)
    cycle.stack.postgres.start()


def regressed_postgres(cycle: Cycle) -> None:
    """Postgres loses the commits of the last moments, as after a fail-over to a late standby."""
    cycle.go_on(0.2, 1.0)
    before = _flushed(cycle.stack)
    kill_postgres(cycle.stack)
    cycle.mark()
    cycle.stack.postgres.start()
    cycle.notes["events that the ledger lost again"] = max(0, before - _flushed(cycle.stack))


@contextlib.contextmanager
def lazy_commits(stack: Stack) -> Iterator[None]:
    """Let Postgres answer commits long before they are on disk."""
    configure(stack.engine, synchronous_commit="off", wal_writer_delay=str(_WAL_WRITER_MS))
    try:
        yield
    finally:
        configure(stack.engine, synchronous_commit=None, wal_writer_delay=None)


def away_postgres(cycle: Cycle, seconds: float = 60.0) -> None:
    """Postgres is stopped under 1,000 events a second; then the ledger catches up."""
    stack = cycle.stack
    accounts = [Account(f"{cycle.accounts[0].name}-flood-{n}", 10**12) for n in range(8)]
    make_accounts(stack.engine, accounts)
    cycle.more_accounts += accounts
    flood = Flood(
        stack.traffic,
        [proxy.port for proxy in stack.client_proxies],
        cycle.history,
        accounts,
        rate=FLOOD_RATE,
        seed=cycle.chance.getrandbits(32),
    )
    flood.start()
    cycle.go_on(2.0)
    stack.postgres.stop()
    cycle.mark()
    cycle.go_on(seconds)
    stack.postgres.start()
    started = monotonic()
    cycle.wait_until(lambda: flush_lag(stack) < 1.0, "the ledger's catching up", _LAG_SECONDS)
    cycle.notes["seconds until the lag was gone, under load"] = monotonic() - started
    flood.stop()
    cycle.notes["events of the flood"] = flood.acknowledged
    cycle.notes["attempts of the flood that were refused"] = flood.refused


def kill_postgres(stack: Stack) -> None:
    """Kill the server and every process of it that there is at this moment."""
    server = psutil.Process(stack.postgres.process.pid)
    everybody = [server, *server.children(recursive=True)]
    for process in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    stack.postgres.process.wait()
    psutil.wait_procs(everybody, timeout=10)


def configure(engine: Engine, **settings: str | None) -> None:
    """Change settings of the server, or set them back, while it runs."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name, value in settings.items():
            how = f"SET {name} = '{value}'" if value is not None else f"RESET {name}"
            connection.execute(sa.text(f"ALTER SYSTEM {how}"))
        connection.execute(sa.text("SELECT pg_reload_conf()"))


def _flushed(stack: Stack) -> int:
    with stack.engine.connect() as connection:
        return int(connection.scalars(_COUNT).one())


_COUNT: Final = sa.text("SELECT count(*) FROM usage_events")
