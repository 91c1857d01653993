"""When the reconciler runs, in a worker: one of several at a time, each pass at its own pace."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from persistence.auditing import Turn
from persistence.database import in_transaction
from persistence.top_up_tables import reconciler_runs as runs
from sidecar.billing import inbox_rows
from sidecar.billing.errors import StripeAway, StripeRefused
from sidecar.billing.reconciler import Reconciler, Report
from sidecar.metrics import MoneyMetrics

log: Final = logging.getLogger(__name__)

TURN_LOCK: Final = 0x43524544_00000004  # advisory: whose turn it is to reconcile

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

_EVERY_MS: Final = {
    "events": 5 * MINUTE_MS,
    "objects": HOUR_MS,
    "subscriptions": DAY_MS,
}
_OVERLAP_MS: Final = {"events": HOUR_MS, "objects": DAY_MS, "subscriptions": 0}
_FIRST_MS: Final = DAY_MS  # how far back a ledger looks that never looked before
KEPT_MS: Final = 30 * DAY_MS
"""How long Stripe keeps events."""

_FIRST_WAIT_MS: Final = 15_000
_LONGEST_WAIT_MS: Final = 15 * MINUTE_MS


class ReconcilerJob:
    """Runs the passes that are due. One that fails waits, ever longer, and holds up no other."""

    def __init__(
        self,
        engine: Engine,
        reconciler: Reconciler,
        metrics: MoneyMetrics,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._engine = engine
        self._reconciler = reconciler
        self._metrics = metrics
        self._now_ms = now_ms
        self._turn = Turn(engine, TURN_LOCK)
        self._failures = dict.fromkeys(_EVERY_MS, 0)
        self._wait_until_ms = dict.fromkeys(_EVERY_MS, 0)

    def run_once(self) -> int:
        """Run the passes that are due, when no other worker does; return how many that were.

        Raises `StripeAway`, `StripeRefused` and the errors of the database; the pass is tried
        again.
        """
        try:
            return self._run_due() if self._turn.take() else 0
        finally:
            self._show_successes()

    def close(self) -> None:
        """Let another worker have the turn. Call when no round runs."""
        self._turn.leave()

    def _run_due(self) -> int:
        done, failures = 0, []
        for name in _EVERY_MS:
            with self._engine.connect() as c:
                reached_ms = reached(c, name)
            if not self._is_due(name, reached_ms):
                continue
            try:
                self._pass(name, reached_ms)
            except (StripeAway, StripeRefused) as error:
                self._put_off(name)
                failures.append(error)
            else:
                self._failures[name] = 0
                done += 1
        if failures:
            raise failures[0]
        return done

    def _is_due(self, name: str, reached_ms: int | None) -> bool:
        due_ms = 0 if reached_ms is None else reached_ms + _EVERY_MS[name]
        return self._now_ms() >= max(due_ms, self._wait_until_ms[name])

    def _put_off(self, name: str) -> None:
        """Wait before a pass is begun again: it asks much, and a wrong key stays wrong."""
        wait_ms = min(_LONGEST_WAIT_MS, _FIRST_WAIT_MS * 2 ** min(self._failures[name], 10))
        self._failures[name] += 1
        self._wait_until_ms[name] = self._now_ms() + wait_ms

    def _show_successes(self) -> None:
        """Show, on every worker, when each pass last came to its end; 0: never."""
        with self._engine.connect() as c:
            known = succeeded(c)
        for name in _EVERY_MS:
            gauge = self._metrics.reconciler_succeeded.labels(name)
            gauge.set(known.get(name, 0) / 1000)

    def _pass(self, name: str, reached_ms: int | None) -> None:
        began_ms = self._now_ms()
        since_ms = (began_ms - _FIRST_MS if reached_ms is None else reached_ms) - _OVERLAP_MS[name]
        report = run_pass(self._reconciler, name, since_ms)
        if reached_ms is None:
            report.late = 0  # what was before us is no fault of the webhook's
        in_transaction(self._engine, lambda c: write_run(c, report, began_ms, self._now_ms()))
        self._show(report)

    def _show(self, report: Report) -> None:
        metrics = self._metrics
        metrics.reconciler_succeeded.labels(report.name).set(self._now_ms() / 1000)
        metrics.reconciler_found.labels(report.name).inc(report.found)
        metrics.reconciler_late.labels(report.name).inc(report.late)
        if not report.found:
            return
        fields = {"pass": report.name, "found": report.found, "late": report.late}
        samples = {kind: ids[:5] for kind, ids in report.missing.items()}
        if report.late:
            log.error("webhooks do not arrive: the reconciler found", extra=fields | samples)
        else:
            log.info("the reconciler was faster than a webhook", extra=fields | samples)


class RetentionJob:
    """Blanks payloads after some days: they hold personal data. Several workers may run one."""

    def __init__(
        self,
        engine: Engine,
        *,
        days: int,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        batch: int = 500,
    ) -> None:
        self._engine = engine
        self._keep_ms = days * DAY_MS
        self._now_ms = now_ms
        self._batch = batch

    def run_once(self) -> int:
        """Blank a batch of old payloads; return how many."""
        now_ms = self._now_ms()
        before_ms, batch = now_ms - self._keep_ms, self._batch
        return in_transaction(
            self._engine, lambda c: inbox_rows.blank_payloads(c, before_ms, now_ms, batch)
        )


def run_pass(reconciler: Reconciler, name: str, since_ms: int) -> Report:
    """Run one pass by its name."""
    if name == "events":
        return reconciler.events(since_ms)
    return reconciler.objects(since_ms) if name == "objects" else reconciler.subscriptions()


def reached(c: Connection, name: str) -> int | None:
    """Return up to which instant a pass has looked; None when it never did."""
    found: int | None = c.scalar(select(runs.c.reached_ms).where(runs.c.name == name))
    return found


def succeeded(c: Connection) -> dict[str, int]:
    """Return when each pass last came to its end."""
    return {
        row.name: row.succeeded_ms for row in c.execute(select(runs.c.name, runs.c.succeeded_ms))
    }


def write_run(c: Connection, report: Report, reached_ms: int, now_ms: int) -> None:
    """Write down how far a pass has come. It never goes back."""
    row = {
        "name": report.name,
        "reached_ms": reached_ms,
        "succeeded_ms": now_ms,
        "seen": report.seen,
        "found": report.found,
    }
    new = insert(runs).values(row)
    changes = {name: new.excluded[name] for name in ("succeeded_ms", "seen", "found")}
    later = {"reached_ms": func.greatest(runs.c.reached_ms, new.excluded.reached_ms)}
    c.execute(new.on_conflict_do_update(index_elements=["name"], set_=changes | later))
