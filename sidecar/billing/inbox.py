"""The inbox job of a worker: takes stored Stripe events and applies each, with its effect, once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine

from persistence.database import is_timed_out, passes_by
from sidecar.billing import inbox_rows
from sidecar.billing.applying import FAILED, IGNORED, Applying, Outcome
from sidecar.billing.errors import EventNotUnderstood, StripeAway, StripeRefused
from sidecar.billing.handlers import HANDLERS
from sidecar.billing.inbox_rows import DueEvent
from sidecar.billing.stripe_api import StripeApi
from sidecar.metrics import WorkerMetrics

log: Final = logging.getLogger(__name__)

DEAD: Final = "dead"
MAX_ATTEMPTS: Final = 10
"""Attempts after which an event that fails is given up; with the back-off, nearly four hours."""

_FIRST_DELAY_MS: Final = 2_000
_LONGEST_DELAY_MS: Final = 3_600_000
_AWAY_DELAY_MS: Final = 15_000
_MOST_UNANSWERED: Final = 3
_EVENTS_A_ROUND: Final = 100
_GAUGES_EVERY_MS: Final = 2_000


class InboxJob:
    """Applies due events, each in one transaction with its effect. Any number may run at once."""

    def __init__(
        self,
        engine: Engine,
        metrics: WorkerMetrics,
        *,
        stripe: StripeApi | None = None,
        takes_metadata_top_ups: bool = True,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._stripe = stripe
        self._takes_metadata_top_ups = takes_metadata_top_ups
        self._now_ms = now_ms
        self._max_attempts = max_attempts
        self._gauges_due_ms = 0
        self._unanswered = 0
        self._away_until_ms = 0

    def run_once(self) -> int:
        """Apply what is due, up to 100 events, and return how many were taken.

        Raises what the database raises when it is away: nothing is counted as an attempt then.
        """
        taken = 0
        while taken < _EVENTS_A_ROUND and self._take_one():
            taken += 1
        self._show()
        return taken

    def _take_one(self) -> bool:
        now_ms = self._now_ms()
        with self._engine.begin() as c:
            event = inbox_rows.take_due(c, now_ms)
            if event is None:
                return False
            outcome = self._counted(event, self._apply(c, event, now_ms))
            inbox_rows.finish(
                c,
                event.id,
                status=outcome.status,
                error=outcome.error,
                waits_for_account=outcome.waits_for_account,
                attempts=event.attempts + (not outcome.is_free),
                due_ms=now_ms + self._delay_ms(event, outcome),
                finished_ms=None if outcome.status == FAILED else now_ms,
            )
        self._report(event, outcome)
        return True

    def _apply(self, c: Connection, event: DueEvent, now_ms: int) -> Outcome:
        """Apply one event. What the event itself is at fault for fails it; the rest is raised."""
        handler = HANDLERS.get(event.type)
        if handler is None:
            return Outcome(IGNORED)
        try:
            with c.begin_nested():
                return handler(self._applying(c, event, now_ms))
        except EventNotUnderstood as error:
            return Outcome(FAILED, str(error))
        except StripeRefused as error:
            return Outcome(FAILED, str(error), is_free=error.is_of_key)
        except StripeAway as error:
            self._note_away()
            return Outcome(FAILED, str(error), is_free=True)
        except Exception as error:
            if is_timed_out(error):
                # Somebody holds what it needs: the others must not wait for that, too.
                return Outcome(FAILED, "what it changes is locked by somebody else", is_free=True)
            if passes_by(error):
                raise
            # One event that trips over a bug must not stop those behind it.
            log.exception("applying a Stripe event failed", extra={"event": event.id})
            return Outcome(FAILED, f"{type(error).__name__}: {ascii(str(error))[:200]}")

    def _applying(self, c: Connection, event: DueEvent, now_ms: int) -> Applying:
        subject, previous = _data_of(event)
        return Applying(
            c=c,
            stripe=self._stripe,
            type=event.type,
            subject=subject,
            previous=previous,
            livemode=event.livemode,
            received_ms=event.received_ms,
            now_ms=now_ms,
            takes_metadata_top_ups=self._takes_metadata_top_ups,
            is_stripe_away=now_ms < self._away_until_ms,
        )

    def _note_away(self) -> None:
        """Ask no more for a while after some calls without an answer: each holds up the others."""
        now_ms = self._now_ms()
        if now_ms < self._away_until_ms:
            return  # it was not asked
        self._unanswered += 1
        if self._unanswered >= _MOST_UNANSWERED:
            self._unanswered, self._away_until_ms = 0, now_ms + _AWAY_DELAY_MS

    def _counted(self, event: DueEvent, outcome: Outcome) -> Outcome:
        is_last = event.attempts + 1 >= self._max_attempts
        if outcome.status == FAILED and is_last and not _is_patient(outcome):
            return Outcome(DEAD, outcome.error)
        return outcome

    @staticmethod
    def _delay_ms(event: DueEvent, outcome: Outcome) -> int:
        if outcome.status != FAILED or outcome.waits_for_account:
            return 0
        if outcome.is_free:
            return _AWAY_DELAY_MS
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

    def _show(self) -> None:
        now_ms = self._now_ms()
        if now_ms < self._gauges_due_ms:
            return
        with self._engine.connect() as c:
            counts = inbox_rows.count_unfinished(c)
            newest_ms = inbox_rows.newest_received_ms(c)
        for status, count in counts.items():
            self._metrics.inbox_events.labels(status).set(count)
        self._metrics.inbox_newest.set(newest_ms / 1000)
        self._gauges_due_ms = now_ms + _GAUGES_EVERY_MS


def _is_patient(outcome: Outcome) -> bool:
    """Tell whether an event waits for something else, for as long as that takes."""
    return outcome.is_free or outcome.waits_for_account is not None


def _data_of(event: DueEvent) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the object that an event is about, and what of it was otherwise before."""
    if event.payload is None:
        raise EventNotUnderstood("its payload is not kept any more")
    data = json.loads(event.payload)["data"]
    subject, previous = data["object"], data.get("previous_attributes")
    return (
        subject if isinstance(subject, dict) else {},
        previous if isinstance(previous, dict) else {},
    )
