"""The audit: every line must be zero. It runs online, and compares exactly."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from persistence import audit_sql
from persistence.compare import Comparer, Comparison, Place
from persistence.database import in_transaction, now_ms
from persistence.recovery import Cause, suspect
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import RedisNodes

_log: Final = logging.getLogger(__name__)

SAMPLES: Final = 5
"""Discrepancies that a line shows; it counts all of them."""

DRIFT_SAMPLE_ACCOUNTS: Final = 200

Progress = Callable[[str], None]


@dataclass(slots=True)
class AuditLine:
    """One line: the number of discrepancies it found, how much was looked at, and some samples."""

    name: str
    invariant: str
    discrepancies: int
    samples: list[str] = field(default_factory=list)
    checked: int | None = None
    seconds: float = 0.0

    @property
    def is_ok(self) -> bool:
        """Whether the line is zero."""
        return self.discrepancies == 0


@dataclass(frozen=True, slots=True)
class AuditReport:
    """All lines of one audit."""

    lines: list[AuditLine]
    started_ms: int
    seconds: float

    @property
    def is_ok(self) -> bool:
        """Whether every line is zero."""
        return all(line.is_ok for line in self.lines)

    @property
    def discrepancies(self) -> int:
        """The sum of the lines."""
        return sum(line.discrepancies for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "ok": self.is_ok,
            "discrepancies": self.discrepancies,
            "started_ms": self.started_ms,
            "seconds": round(self.seconds, 3),
            "lines": [dataclasses.asdict(line) | {"ok": line.is_ok} for line in self.lines],
        }

    def to_json(self) -> str:
        """Return the report as JSON."""
        return msgspec.json.encode(self.to_dict()).decode()


def audit(
    engine: Engine,
    nodes: RedisNodes | None,
    *,
    progress: Progress | None = None,
    accounts: Sequence[str] | None = None,
    wait_s: float = 10.0,
    line_s: float = 0.0,
) -> AuditReport:
    """Check the ledger and compare Redis with it; return every line.

    The ledger's lines are read in one snapshot, each within `line_s` (0: whatever it takes).
    `accounts` limits only the comparison with Redis; without `nodes` it is left out. `wait_s`
    is how long events may take to be flushed. Raises the errors of SQLAlchemy and redis-py.
    """
    say = progress or _silent
    started, started_ms = time.monotonic(), now_ms()
    lines = _ledger_lines(engine, say, line_s)
    if nodes is not None:
        comparer = Comparer(engine, nodes, wait_s=wait_s)
        lines += _redis_lines(comparer, accounts, say)
    return AuditReport(lines, started_ms, time.monotonic() - started)


class DriftSampler:
    """Compares some accounts each round, all of them in turn, for the worker's gauge."""

    def __init__(self, engine: Engine, comparer: Comparer, metrics: WorkerMetrics) -> None:
        self._engine = engine
        self._comparer = comparer
        self._metrics = metrics
        self._after = 0

    def run_once(self) -> int:
        """Compare the next accounts and set the gauges; return how many were compared."""
        comparison, self._after = self._comparer.sample(DRIFT_SAMPLE_ACCOUNTS, self._after)
        self._give_up(comparison.ahead)
        self._metrics.drift.set(sum(d.amount for d in comparison.differences))
        self._metrics.drift_accounts.set(comparison.compared)
        self._metrics.drift_checked_at.set(time.time())
        return comparison.compared

    def _give_up(self, ahead: Sequence[Place]) -> None:
        """Give up shards of which Redis knows more than the ledger: that one went back in time."""
        for place in ahead:
            where = (place.shard, place.epoch, Cause.REFILL_AHEAD)
            if in_transaction(self._engine, lambda c, w=where: suspect(c, *w)):  # type: ignore[misc]
                fields = {"account": place.account, "shard": place.shard}
                _log.critical("Redis has refills that the ledger does not have", extra=fields)


def count_dead_letters(connection: Connection) -> int:
    """Return how many dead letters wait for a person."""
    query = sa.text("SELECT count(*) FROM dead_letters WHERE resolved_ms IS NULL")
    return int(connection.scalars(query).one())


def _ledger_lines(engine: Engine, say: Progress, line_s: float) -> list[AuditLine]:
    with engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        # Sums over the whole ledger take longer than what else is asked of it.
        connection.execute(sa.text(f"SET LOCAL statement_timeout = {int(line_s * 1000)}"))
        return [_ledger_line(connection, *line, say) for line in audit_sql.LINES]


def _ledger_line(
    connection: Connection, name: str, invariant: str, query: str, say: Progress
) -> AuditLine:
    say(name)
    started = time.monotonic()
    # A nested WITH is fine in Postgres, so every query can be counted the same way.
    counted = sa.text(
        f"WITH wrong AS ({query}) SELECT (SELECT count(*) FROM wrong) AS discrepancies,"
        f" ARRAY(SELECT row_to_json(w)::text FROM wrong w LIMIT {SAMPLES}) AS samples"
    )
    row = connection.execute(counted).one()
    count, samples = int(row.discrepancies), list(row.samples)
    return AuditLine(name, invariant, count, samples, seconds=time.monotonic() - started)


def _redis_lines(
    comparer: Comparer, accounts: Sequence[str] | None, say: Progress
) -> list[AuditLine]:
    say("redis_is_ledger")
    started = time.monotonic()
    same = AuditLine("redis_is_ledger", "I1", 0, checked=0)
    flushed = AuditLine("events_reach_ledger", "I4", 0, checked=0)
    for comparison in comparer.chunks(accounts):
        _count(comparison, same, flushed)
        say(f"redis_is_ledger: {same.checked} accounts")
    same.seconds = time.monotonic() - started
    return [same, flushed]


def _count(comparison: Comparison, same: AuditLine, flushed: AuditLine) -> None:
    same.checked = (same.checked or 0) + comparison.compared
    same.discrepancies += len(comparison.differences)
    for difference in comparison.differences[: SAMPLES - len(same.samples)]:
        same.samples.append(msgspec.json.encode(dataclasses.asdict(difference)).decode())
    flushed.checked = (flushed.checked or 0) + comparison.compared + len(comparison.unflushed)
    flushed.discrepancies += len(comparison.unflushed)
    flushed.samples += comparison.unflushed[: SAMPLES - len(flushed.samples)]


def _silent(_: str) -> None:
    return None
