"""The watch: a worker's job that tells when accounts run low, and has them topped up.

A call that takes an account below its mark is a hint, and the account is watched until it has
clearly more again. Hints may be lost: each minute all accounts are compared with the ledger.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.database import in_transaction
from sidecar.billing.alerts import AlertKind, raise_alert
from sidecar.billing.watch_rules import Look, Watched, look, pause_ms, time_to_zero_seconds
from sidecar.billing.watch_standing import Standing, Standings
from sidecar.domain import AccountStatus

SWEEP_EVERY_MS: Final = 60_000

_BATCH: Final = 100
_POSTPONED_MS: Final = 5_000
_HOUR_MS: Final = 3_600_000


class Watch:
    """Looks at watched accounts. Any number may run at once."""

    def __init__(
        self,
        engine: Engine,
        standings: Standings,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._engine = engine
        self._standings = standings
        self._now_ms = now_ms
        self._sweep_due_ms = 0

    def run_once(self) -> int:
        """Look at the accounts that are due, at most 100; return how many were looked at."""
        now_ms = self._now_ms()
        if now_ms >= self._sweep_due_ms:
            in_transaction(self._engine, lambda c: sweep(c, now_ms))
            self._sweep_due_ms = now_ms + SWEEP_EVERY_MS
        with self._engine.connect() as c:
            due = {row.account: row.rung_ms for row in c.execute(_DUE, {"now_ms": now_ms})}
        if not due:
            return 0
        # Before any row is locked: the flusher, which marks accounts too, must never wait for it.
        standings = self._standings.of(list(due))
        return in_transaction(self._engine, lambda c: _look_at(c, due, standings, now_ms))


def sweep(c: Connection, now_ms: int) -> None:
    """Find the accounts that are low by the ledger although no hint of it came."""
    c.execute(_SWEEP_LOW, {"now_ms": now_ms})
    c.execute(_SWEEP_TOP_UPS, {"now_ms": now_ms})


def _look_at(
    c: Connection, due: Mapping[str, int], standings: Mapping[str, Standing], now_ms: int
) -> int:
    rows = c.execute(_LOCK, {"names": list(due), "now_ms": now_ms}).mappings().all()
    over, changes, to_top_up = [], [], []
    for row in rows:
        one = Watched(**{name: row[name] for name in Watched.__dataclass_fields__})
        standing = standings.get(one.account)
        if row["status"] == AccountStatus.CLOSED.value:
            over.append(one.account)
        # One that fell again meanwhile is looked at again, with what it has now.
        elif standing is None or not standing.is_exact or one.rung_ms != due[one.account]:
            changes.append(dataclasses.asdict(one) | {"due_ms": now_ms + _POSTPONED_MS})
        else:
            found = look(one, standing.available, now_ms)
            _tell(c, one, standing.available, found, now_ms)
            if found.is_to_top_up:
                to_top_up.append(one.account)
            if found.is_over:
                over.append(one.account)
            else:
                changes.append(_changed(one, found, now_ms))
    for statement, names in ((_FORGET, over), (_TOP_UP, to_top_up)):
        if names:
            c.execute(statement, {"names": names, "now_ms": now_ms})
    if changes:
        c.execute(_CHANGE, changes)
    return len(rows)


def _changed(one: Watched, found: Look, now_ms: int) -> dict[str, Any]:
    return dataclasses.asdict(one) | {
        "due_ms": now_ms + pause_ms(one.rung_ms, now_ms, is_waiting=found.is_waiting),
        "is_low_told": found.is_low_told,
        "is_exhausted_told": found.is_exhausted_told,
        "exhausted_ms": now_ms if found.tells_exhausted else one.exhausted_ms,
    }


def _tell(c: Connection, one: Watched, available: int, found: Look, now_ms: int) -> None:
    # The row is locked, and says in the same transaction what was told.
    key = str(now_ms)
    if found.tells_low:
        data = {
            "available": available,
            "threshold": one.low_threshold,
            "time_to_zero_seconds": time_to_zero_seconds(available, _used(c, one.account, now_ms)),
        }
        raise_alert(c, AlertKind.LOW_BALANCE, one.account, data, key=key, now_ms=now_ms)
    if found.tells_exhausted:
        data = {"available": available}
        raise_alert(c, AlertKind.EXHAUSTED, one.account, data, key=key, now_ms=now_ms)


def _used(c: Connection, account: str, now_ms: int) -> int:
    """Return what an account used in the last hour, less what was given back of it."""
    return int(c.scalar(_USED, {"account": account, "since_ms": now_ms - _HOUR_MS}) or 0)


_NAMES: Final = sa.bindparam("names", type_=ARRAY(sa.Text))

_DUE: Final = sa.text(
    "SELECT account, rung_ms FROM watched_accounts WHERE due_ms <= :now_ms"
    f" ORDER BY due_ms LIMIT {_BATCH}"
)

_LOCK: Final = sa.text(
    """
    SELECT w.account, w.rung_ms, w.is_low_told, w.is_exhausted_told,
        coalesce(w.exhausted_ms, 0) AS exhausted_ms, a.status,
        coalesce(a.low_balance_threshold, 0) AS low_threshold,
        coalesce((SELECT t.threshold FROM auto_top_ups t WHERE t.account = w.account
            AND t.is_enabled AND t.paused_reason IS NULL), 0) AS top_up_threshold,
        coalesce(greatest(a.low_balance_threshold, a.top_up_threshold), 0) AS mark
    FROM watched_accounts w JOIN accounts a ON a.account = w.account
    WHERE w.account = ANY(:names) AND w.due_ms <= :now_ms
    ORDER BY w.account FOR UPDATE OF w SKIP LOCKED
    """
).bindparams(_NAMES)

_FORGET: Final = sa.text("DELETE FROM watched_accounts WHERE account = ANY(:names)").bindparams(
    _NAMES
)

_CHANGE: Final = sa.text(
    """
    UPDATE watched_accounts SET due_ms = :due_ms, is_low_told = :is_low_told,
        is_exhausted_told = :is_exhausted_told, exhausted_ms = :exhausted_ms
    WHERE account = :account
    """
)

_USED: Final = sa.text(
    """
    SELECT sum(amount) FROM usage_events
    WHERE account = :account AND at_ms >= :since_ms AND operation IN ('settle', 'debit', 'refund')
    """
)

_LEDGER: Final = """
    (SELECT coalesce(sum(l.balance), 0) FROM ledger_accounts l
        WHERE l.account = a.account AND l.kind IN ('available', 'lent'))
"""

# Whoever has a row of settings locked looks at that account just now.
_IDLE: Final = """
    t.is_enabled AND t.paused_reason IS NULL AND t.due_ms IS NULL
    AND NOT EXISTS (
        SELECT FROM auto_top_up_attempts x
        WHERE x.account = t.account AND x.status IN ('pending', 'unknown', 'charged'))
"""

_TOP_UP: Final = sa.text(
    f"""
    UPDATE auto_top_ups SET due_ms = :now_ms WHERE account IN (
        SELECT t.account FROM auto_top_ups t WHERE t.account = ANY(:names) AND {_IDLE}
        ORDER BY t.account FOR UPDATE SKIP LOCKED)
    """
).bindparams(_NAMES)

_SWEEP_TOP_UPS: Final = sa.text(
    f"""
    UPDATE auto_top_ups SET due_ms = :now_ms WHERE account IN (
        SELECT t.account FROM auto_top_ups t JOIN accounts a ON a.account = t.account
        WHERE {_IDLE} AND a.status NOT IN ('suspended', 'closed') AND {_LEDGER} < t.threshold
        ORDER BY t.account FOR UPDATE OF t SKIP LOCKED)
    """
)

_SWEEP_LOW: Final = sa.text(
    f"""
    INSERT INTO watched_accounts (account, rung_ms, due_ms)
    SELECT a.account, :now_ms, :now_ms FROM accounts a
    WHERE a.low_balance_threshold > 0 AND a.status <> 'closed'
        AND NOT EXISTS (SELECT FROM watched_accounts w WHERE w.account = a.account)
        AND {_LEDGER} < a.low_balance_threshold
    ORDER BY a.account
    ON CONFLICT (account) DO NOTHING
    """
)
