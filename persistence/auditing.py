"""The worker's own audit: everything, again and again, into metrics and the log.

One worker of several audits. It has the turn for as long as it lives, by an advisory lock of a
session that is never in a transaction; the others look every few seconds whether it is free.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from persistence.audit import AuditLine, AuditReport, audit
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import RedisNodes

_log: Final = logging.getLogger(__name__)

TURN_LOCK: Final = 0x43524544_00000003  # advisory: whose turn it is to audit
LOOK_SECONDS: Final = 5.0
"""How often to look whether it is time, and whether the turn is free."""

_FIRST_SECONDS: Final = (5.0, 30.0)  # by chance, so that workers started together do not collide
_AGAIN_SECONDS: Final = 60.0  # after one that failed: it may be heavy, so not at once
_FLUSH_WAIT_SECONDS: Final = 5.0
_LINE_SECONDS: Final = 600.0


class Turn:
    """Whose turn it is, of all workers of a ledger, to do what `lock` stands for.

    Belongs to one thread.
    """

    def __init__(self, engine: Engine, lock: int = TURN_LOCK) -> None:
        self._engine = engine
        self._lock = {"k": lock}
        self._connection: Connection | None = None

    def take(self) -> bool:
        """Take the turn, if it is free, and tell whether it is mine. Raises SQLAlchemy's errors."""
        if self._connection is not None:
            try:
                self._connection.execute(sa.text("SELECT 1"))
                return True
            except SQLAlchemyError:
                self.leave()
        connection = self._engine.connect()
        try:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            if connection.scalar(sa.text("SELECT pg_try_advisory_lock(:k)"), self._lock):
                self._connection = connection
        finally:
            if self._connection is not connection:
                connection.close()
        return self._connection is not None

    def leave(self) -> None:
        """Let another worker have it."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(SQLAlchemyError):
                connection.execute(sa.text("SELECT pg_advisory_unlock(:k)"), self._lock)
            with contextlib.suppress(SQLAlchemyError):
                # Not back into the pool: if that failed, the lock ends with the session.
                connection.invalidate()
                connection.close()


class Auditor:
    """Audits every `interval_s` seconds, when it has the turn."""

    def __init__(
        self,
        engine: Engine,
        nodes: RedisNodes,
        metrics: WorkerMetrics,
        *,
        interval_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._nodes = nodes
        self._metrics = metrics
        self._interval_s = interval_s
        self._clock = clock
        self._turn = Turn(engine)
        self._stopping = threading.Event()
        self._due_at = clock() + min(random.uniform(*_FIRST_SECONDS), interval_s)
        self._known: dict[str, int] = {}
        self._clean_at = clock()

    def run_once(self) -> int:
        """Audit when it is time and nobody else does; return how many audits that were.

        Raises the errors of SQLAlchemy and redis-py; then the next one is tried a minute later.
        """
        self._metrics.audit_age.set_function(lambda: max(self._clock() - self._clean_at, 0.0))
        if not self._turn.take():
            # Whoever has the turn shows the age of its own.
            self._clean_at = max(self._clean_at, self._clock())
            return 0
        if self._clock() < self._due_at:
            return 0
        self._due_at = self._clock() + min(_AGAIN_SECONDS, self._interval_s)
        try:
            self._audit()
        except _Stopped:
            return 0
        self._due_at = self._clock() + self._interval_s
        return 1

    def stop(self) -> None:
        """End after the present line; from whatever thread."""
        self._stopping.set()

    def close(self) -> None:
        """Let another worker have the turn. Call when no round runs."""
        self._turn.leave()

    def _audit(self) -> None:
        began = self._clock()
        report = audit(
            self._engine,
            self._nodes,
            progress=self._go_on,
            wait_s=_FLUSH_WAIT_SECONDS,
            line_s=_LINE_SECONDS,
        )
        self._show(report, began)
        for line in report.lines:
            self._report(line)

    def _go_on(self, _: str) -> None:
        if self._stopping.is_set():
            raise _Stopped

    def _show(self, report: AuditReport, began: float) -> None:
        for line in report.lines:
            self._metrics.audit_discrepancies.labels(line.name).set(line.discrepancies)
        self._metrics.audit_seconds.set(report.seconds)
        if report.is_ok:
            self._clean_at = began
            self._metrics.audit_last_clean.set(began)

    def _report(self, line: AuditLine) -> None:
        """Log a line that is not what it was the last time."""
        before = self._known.get(line.name, 0)
        self._known[line.name] = line.discrepancies
        if line.discrepancies == before:
            return
        fields = {"line": line.name, "discrepancies": line.discrepancies}
        if line.is_ok:
            _log.info("a line of the audit is zero again", extra=fields)
        else:
            about = {"invariant": line.invariant, "samples": line.samples}
            _log.critical("the audit found what must not be", extra=fields | about)


class _Stopped(Exception):
    """Raised out of an audit when the worker stops."""
