"""The rows of the Stripe inbox: stored once, taken by one worker at a time, kept for ever."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from persistence.cursors import Page, decode_cursor, page_of
from persistence.stripe_tables import stripe_events as events
from persistence.tables import accounts
from sidecar.billing.webhook import StripeEvent

STATUSES: Final = ("pending", "applied", "ignored", "failed", "dead")
_OPEN: Final = ("pending", "failed")
_UNFINISHED: Final = (*_OPEN, "dead")
_SHOWN: Final = (
    events.c.id,
    events.c.type,
    events.c.object_id,
    events.c.livemode,
    events.c.created_ms,
    events.c.received_ms,
    events.c.status,
    events.c.attempts,
    events.c.error,
    events.c.source,
)


@dataclass(frozen=True, slots=True)
class DueEvent:
    """An event that a worker has taken; its row is locked until the transaction ends."""

    id: str
    type: str
    livemode: bool
    payload: str | None
    received_ms: int
    attempts: int


def store(c: Connection, event: StripeEvent, now_ms: int, *, source: str = "webhook") -> bool:
    """Store an event; False when it was here before, however long ago.

    `source` is `webhook`, or `reconciler` when it had to be fetched.
    """
    row = {
        "id": event.id,
        "type": event.type,
        "object_id": event.object_id,
        "livemode": event.livemode,
        "api_version": event.api_version,
        "created_ms": event.created_ms,
        "received_ms": now_ms,
        "payload": event.payload,
        "due_ms": now_ms,
        "source": source,
    }
    inserted = insert(events).values(row).on_conflict_do_nothing().returning(events.c.id)
    return c.execute(inserted).first() is not None


def take_due(c: Connection, now_ms: int) -> DueEvent | None:
    """Lock and return the event that is due longest and that no other worker has, if any.

    One that waits for an account is due only when the account is there.
    """
    is_account_there = exists().where(accounts.c.account == events.c.waits_for_account)
    query = (
        select(*(events.c[field.name] for field in dataclasses.fields(DueEvent)))
        .where(events.c.status.in_(_OPEN), events.c.due_ms <= now_ms)
        .where(or_(events.c.waits_for_account.is_(None), is_account_there))
        .order_by(events.c.due_ms)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = c.execute(query).mappings().one_or_none()
    return None if row is None else DueEvent(**row)


def finish(c: Connection, id: str, **changes: Any) -> None:
    """Write what became of an event, in the transaction of its effect."""
    c.execute(update(events).where(events.c.id == id).values(changes))


def replay(c: Connection, id: str, now_ms: int) -> RowMapping | None:
    """Make an event due again, whatever became of it. None when there is no such event."""
    again = (
        update(events)
        .where(events.c.id == id)
        .values(
            status="pending",
            attempts=0,
            error=None,
            due_ms=now_ms,
            waits_for_account=None,
            finished_ms=None,
        )
        .returning(*_SHOWN)
    )
    return c.execute(again).mappings().one_or_none()


def is_blanked(c: Connection, id: str) -> bool:
    """Tell whether the payload of an event is gone, so that it can't be applied again.

    The row stays locked until the transaction ends.
    """
    query = select(events.c.blanked_ms).where(events.c.id == id).with_for_update()
    return c.scalar(query) is not None


def list_events(
    c: Connection, limit: int, cursor: str | None = None, status: str | None = None
) -> Page[dict[str, Any]]:
    """Return a page of the events, newest first. Raises `Refusal` (422) for a bad cursor."""
    query = select(events.c.no, *_SHOWN).order_by(events.c.no.desc()).limit(limit + 1)
    if status is not None:
        query = query.where(events.c.status == status)
    if cursor is not None:
        (before,) = decode_cursor(cursor, 1)
        query = query.where(events.c.no < before)
    rows = [dict(row) for row in c.execute(query).mappings()]
    return page_of(rows, limit, lambda row: (row["no"],))


def count_unfinished(c: Connection) -> dict[str, int]:
    """Return how many events of each status somebody has to do something about.

    Those that are applied or ignored are kept for ever: counting them would take ever longer.
    """
    query = select(events.c.status, func.count()).where(events.c.status.in_(_UNFINISHED))
    counts = c.execute(query.group_by(events.c.status))
    return dict.fromkeys(_UNFINISHED, 0) | {status: count for status, count in counts}


def newest_received_ms(c: Connection) -> int:
    """Return when the newest event was delivered; 0 when none was. One that was fetched is none."""
    newest = select(events.c.received_ms).where(events.c.source == "webhook")
    return c.execute(newest.order_by(events.c.no.desc()).limit(1)).scalar() or 0


def known_ids(c: Connection, ids: Sequence[str]) -> set[str]:
    """Return which of some events are stored."""
    return set(c.scalars(select(events.c.id).where(events.c.id.in_(ids))))


def blank_payloads(c: Connection, before_ms: int, now_ms: int, limit: int) -> int:
    """Blank payloads that arrived before an instant and are applied or ignored; return how many.

    They hold personal data. What was learnt of them, ids and amounts, is in our own tables.
    """
    old = (
        select(events.c.id)
        .where(events.c.blanked_ms.is_(None), events.c.received_ms < before_ms)
        .where(events.c.status.in_(("applied", "ignored")))
        .order_by(events.c.received_ms)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    blank = update(events).where(events.c.id.in_(old)).values(payload=None, blanked_ms=now_ms)
    return c.execute(blank).rowcount
