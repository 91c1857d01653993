"""The inbox job of a worker: takes stored Stripe events and applies each, with its effect, once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from persistence.database import is_transient
from sidecar.billing import inbox_rows
from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.inbox_rows import DueEvent
from sidecar.billing.payments import FAILED, IGNORED, Outcome, apply_top_up
from sidecar.billing.topups import read_top_up
from sidecar.errors import LedgerUnavailable
from sidecar.metrics import WorkerMetrics

log: Final = logging.getLogger(__name__)

DEAD: Final = "dead"
MAX_ATTEMPTS: Final = 10
"""Attempts after which an event that fails is given up; with the back-off, about five hours."""

_FIRST_DELAY_MS: Final = 2_000
_LONGEST_DELAY_MS: Final = 3_600_000
_EVENTS_A_ROUND: Final = 100
_GAUGES_EVERY_MS: Final = 5_000


class InboxJob:
    """Applies due events, each in one transaction with its effect. Any number may run at once."""

    def __init__(
        self,
        engine: Engine,
        metrics: WorkerMetrics,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._now_ms = now_ms
        self._max_attempts = max_attempts
        self._gauges_due_ms = 0

    def run_once(self) -> int:
        """Apply what is due, up to 100 events, and return how many were taken.

        Raises what the database raises when it is away: nothing is counted as an attempt then.
        """
        taken = 0
        while taken < _EVENTS_A_ROUND and self._take_one():
            taken += 1
        self._show(has_changed=taken > 0)
        return taken

    def _take_one(self) -> bool:
        now_ms = self._now_ms()
        with self._engine.begin() as c:
            event = inbox_rows.take_due(c, now_ms)
            if event is None:
                return False
            outcome = self._counted(event, _apply(c, event, now_ms))
            inbox_rows.finish(
                c,
                event.id,
                status=outcome.status,
                error=outcome.error,
                waits_for_account=outcome.waits_for_account,
                attempts=event.attempts + 1,
                due_ms=now_ms + self._delay_ms(event, outcome),
                finished_ms=None if outcome.status == FAILED else now_ms,
            )
        self._report(event, outcome)
        return True

    def _counted(self, event: DueEvent, outcome: Outcome) -> Outcome:
        is_last = event.attempts + 1 >= self._max_attempts
        if outcome.status == FAILED and is_last and not outcome.waits_for_account:
            return Outcome(DEAD, outcome.error)
        return outcome

    @staticmethod
    def _delay_ms(event: DueEvent, outcome: Outcome) -> int:
        if outcome.status != FAILED or outcome.waits_for_account:
            return 0
        # The exponent is bounded: a replayed event may have any number of attempts behind it.
        return int(min(_LONGEST_DELAY_MS, _FIRST_DELAY_MS * 4 ** min(event.attempts, 8)))

    def _report(self, event: DueEvent, outcome: Outcome) -> None:
        self._metrics.inbox_applied.labels(outcome.status).inc()
        fields = {"event": event.id, "type": event.type, "error": outcome.error}
        if outcome.status == DEAD:
            log.error("gave a Stripe event up", extra=fields)
        elif outcome.status == FAILED:
            log.warning("could not apply a Stripe event", extra=fields)
        else:
            log.debug("finished a Stripe event", extra=fields | {"outcome": outcome.status})

    def _show(self, *, has_changed: bool) -> None:
        now_ms = self._now_ms()
        if not has_changed and now_ms < self._gauges_due_ms:
            return
        with self._engine.connect() as c:
            counts = inbox_rows.count_by_status(c)
            newest_ms = inbox_rows.newest_received_ms(c)
        for status, count in counts.items():
            self._metrics.inbox_events.labels(status).set(count)
        self._metrics.inbox_newest.set(newest_ms / 1000)
        self._gauges_due_ms = now_ms + _GAUGES_EVERY_MS


def _apply(c: Connection, event: DueEvent, now_ms: int) -> Outcome:
    """Apply one event. What the event itself is at fault for fails it; the rest is raised."""
    try:
        with c.begin_nested():
            top_up = read_top_up(event.type, _subject(event))
            if top_up is None:
                return Outcome(IGNORED)
            return apply_top_up(c, top_up, livemode=event.livemode, now_ms=now_ms)
    except EventNotUnderstood as error:
        return Outcome(FAILED, str(error))
    except LedgerUnavailable:
        raise
    except Exception as error:
        if isinstance(error, DBAPIError) and (is_transient(error) or error.connection_invalidated):
            raise
        # One event that trips over a bug must not stop those behind it.
        log.exception("applying a Stripe event failed", extra={"event": event.id})
        return Outcome(FAILED, f"{type(error).__name__}: {ascii(str(error))[:200]}")


def _subject(event: DueEvent) -> dict[str, Any]:
    if event.payload is None:
        raise EventNotUnderstood("its payload is not kept any more")
    subject = json.loads(event.payload)["data"]["object"]
    return subject if isinstance(subject, dict) else {}
