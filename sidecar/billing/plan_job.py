"""The plan job of a worker: monthly allowances that come due, and grace that is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, select

from persistence.database import passes_by
from persistence.plan_tables import allowances
from persistence.plan_tables import stripe_subscriptions as subscriptions
from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.plan_states import GRACE, RUNNING, settle

log: Final = logging.getLogger(__name__)

_A_ROUND: Final = 100


class PlanJob:
    """Settles the subscriptions that time alone changes, each in a transaction of its own.

    Any number may run at once: each takes those that no other one has.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._engine = engine
        self._now_ms = now_ms

    def run_once(self) -> int:
        """Settle what is due, up to 100 subscriptions, and return how many were.

        Raises what the database raises when it is away.
        """
        done = 0
        seen: set[str] = set()
        while len(seen) < _A_ROUND:
            is_settled = self._take_one(seen)
            if is_settled is None:
                break
            done += is_settled
        return done

    def _take_one(self, seen: set[str]) -> bool | None:
        """Settle one that is due and was not `seen`; None: there is none, False: it failed."""
        now_ms = self._now_ms()
        with self._engine.begin() as c:
            subscription = _due(c, now_ms, seen)
            if subscription is None:
                return None
            seen.add(subscription)
            try:
                with c.begin_nested():
                    settle(c, subscription, now_ms)
            except Exception as error:
                if passes_by(error):
                    raise
                # One account that can hold no more, or a bug, must not stop the others.
                fields = {"subscription": subscription, "error": ascii(str(error))[:200]}
                is_bug = not isinstance(error, EventNotUnderstood)
                log.error("could not grant an allowance that is due", extra=fields, exc_info=is_bug)
                return False
        return True


def _due(c: Connection, now_ms: int, seen: set[str]) -> str | None:
    """Lock and return a subscription that is due and that no other worker has, if any."""
    return _grace_over(c, now_ms, seen) or _allowance_due(c, now_ms, seen)


def _grace_over(c: Connection, now_ms: int, seen: set[str]) -> str | None:
    known = subscriptions.c
    query = select(known.subscription).where(known.state == GRACE, known.grace_until_ms <= now_ms)
    return _taken(c, query, seen)


def _allowance_due(c: Connection, now_ms: int, seen: set[str]) -> str | None:
    known, given = subscriptions.c, allowances.c
    query = (
        select(known.subscription)
        .join(allowances, given.subscription == known.subscription)
        .where(given.granted < given.target, given.ended_ms.is_(None), given.due_ms <= now_ms)
        .where(given.expires_ms > now_ms, known.state.in_(RUNNING))
    )
    return _taken(c, query, seen)


def _taken(c: Connection, query: Select[Any], seen: set[str]) -> str | None:
    query = query.where(subscriptions.c.subscription.not_in(seen)).limit(1)
    found: str | None = c.scalar(query.with_for_update(of=subscriptions, skip_locked=True))
    return found
