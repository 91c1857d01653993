"""Connections to Postgres: how they are made, and which of their errors pass by themselves."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from sidecar.errors import LedgerUnavailable

T = TypeVar("T")

TRANSACTION_ATTEMPTS: Final = 8
"""How often a transaction is tried when others stand in its way (deadlock, serialization)."""

_TRANSIENT_CLASSES: Final = frozenset({"08", "40", "53", "57"})
_POISON_CLASSES: Final = frozenset({"22", "23"})


def make_engine(
    url: str,
    *,
    application_name: str = "credit-sidecar",
    pool_size: int = 5,
    statement_timeout_ms: int = 30_000,
    connect_timeout_s: int = 5,
) -> Engine:
    """Return an engine for a libpq URL (`postgresql://…`, also with `?host=/socket/directory`).

    Nothing is connected yet. Time-outs are the server's, so a statement cannot run for ever.
    """
    return sa.create_engine(
        _driver_url(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        # Errors go to logs, and parameters are bodies of Stripe's events, too.
        hide_parameters=True,
        connect_args={
            "application_name": application_name,
            "connect_timeout": connect_timeout_s,
            # A host that vanished says nothing more, also not that it is gone.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "options": f"-c statement_timeout={statement_timeout_ms}"
            " -c idle_in_transaction_session_timeout=60000 -c timezone=UTC",
            # Server-side prepared statements would break behind a transaction pooler.
            "prepare_threshold": None,
        },
    )


def _driver_url(url: str) -> sa.URL:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise LedgerUnavailable("The ledger's URL must begin with postgresql://.")
    return parsed.set(drivername="postgresql+psycopg")


def sqlstate(error: Exception) -> str | None:
    """Return the five-character code of Postgres's error, or None when it had none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code: Any = getattr(cause, "sqlstate", None)
    return code if isinstance(code, str) else None


def is_transient(error: Exception) -> bool:
    """Tell whether the same transaction may succeed later: lost connection, deadlock, overload."""
    code = sqlstate(error)
    if code is not None:
        return code[:2] in _TRANSIENT_CLASSES
    return isinstance(error, sa.exc.OperationalError | psycopg.OperationalError)


def passes_by(error: Exception) -> bool:
    """Tell whether an error is the database's own and not of what was asked: it is to be raised."""
    if isinstance(error, DBAPIError):
        return is_transient(error) or error.connection_invalidated
    return isinstance(error, LedgerUnavailable)


def is_timed_out(error: Exception) -> bool:
    """Tell whether a statement took too long, most likely behind a lock: the rest is well."""
    return sqlstate(error) in ("57014", "55P03")


def is_conflict(error: Exception) -> bool:
    """Tell whether another transaction stood in the way (class 40): repeat at once."""
    return (sqlstate(error) or "")[:2] == "40"


def is_poison(error: Exception) -> bool:
    """Tell whether the data itself is refused (classes 22 and 23): a repeat fails again."""
    return (sqlstate(error) or "")[:2] in _POISON_CLASSES


def timeline(connection: Connection) -> str:
    """Return the name of Postgres's timeline: another one when it was promoted or restored.

    Empty when this Postgres does not say. The caller has a transaction.
    """
    try:
        with connection.begin_nested():
            return str(connection.scalar(_TIMELINE))
    except DBAPIError as error:
        if is_transient(error):
            raise
        return ""


def in_transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run `work` in one transaction and return what it returns, repeated while others conflict.

    `work` may run several times: its effects must all be in the transaction. Raises
    `LedgerUnavailable` when Postgres is away or refuses for a passing reason; refusals and other
    errors pass through, with nothing changed.
    """
    for attempt in range(TRANSACTION_ATTEMPTS):
        try:
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            is_last = attempt + 1 == TRANSACTION_ATTEMPTS
            if not is_transient(error):
                raise
            if is_last or not is_conflict(error):
                raise LedgerUnavailable("The ledger cannot be reached now.") from error
        # Those that collided must not collide again in step.
        time.sleep(random.uniform(0.001, 0.005) * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def now_ms() -> int:
    """Return the host's clock in Unix milliseconds, for instants that decide nothing."""
    return time.time_ns() // 1_000_000


# The first eight digits of the name of a segment of the log are its timeline.
_TIMELINE: Final = sa.text("SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)")
