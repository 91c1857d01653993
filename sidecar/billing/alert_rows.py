"""The rows of the outbox of alerts: written with their cause, claimed, and sent at least once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from persistence.cursors import Page, decode_cursor, page_of
from persistence.top_up_tables import alerts

STATUSES: Final = ("pending", "delivered", "dead")
_SHOWN: Final = (
    alerts.c.id,
    alerts.c.kind,
    alerts.c.account,
    alerts.c.data,
    alerts.c.status,
    alerts.c.attempts,
    alerts.c.due_ms,
    alerts.c.delivered_ms,
    alerts.c.answer,
    alerts.c.error,
    alerts.c.created_ms,
)


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert that a worker has claimed: until `due_ms` no other one sends it."""

    id: str
    kind: str
    account: str | None
    data: dict[str, Any]
    attempts: int
    due_ms: int
    created_ms: int


_ALERT: Final = tuple(alerts.c[name] for name in Alert.__dataclass_fields__)


def claim_due(c: Connection, now_ms: int, claim_ms: int, limit: int) -> list[Alert]:
    """Return alerts that are due and that no other worker has; they are due again later.

    So what a worker that dies was sending is sent by another one.
    """
    due = (
        select(alerts.c.id)
        .where(alerts.c.status == "pending", alerts.c.due_ms <= now_ms)
        .order_by(alerts.c.due_ms)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    claimed = update(alerts).where(alerts.c.id.in_(due.scalar_subquery()))
    rows = c.execute(claimed.values(due_ms=now_ms + claim_ms).returning(*_ALERT)).mappings()
    return sorted((Alert(**row) for row in rows), key=lambda one: one.created_ms)


def finish(c: Connection, one: Alert, **changes: Any) -> None:
    """Write what became of a claimed alert, unless it is another's by now."""
    is_ours = (alerts.c.id == one.id, alerts.c.due_ms == one.due_ms, alerts.c.status == "pending")
    c.execute(update(alerts).where(*is_ours).values(attempts=one.attempts + 1, **changes))


def bury_old(c: Connection, before_ms: int) -> list[str]:
    """Give up what was due before an instant and never tried; return the ids.

    There was no address to send it to, and it is no news any more.
    """
    old = update(alerts).where(
        alerts.c.status == "pending", alerts.c.attempts == 0, alerts.c.due_ms < before_ms
    )
    error = "it was too old when CREDITS_ALERT_URL was set"
    return list(c.scalars(old.values(status="dead", error=error).returning(alerts.c.id)))


def count_pending(c: Connection) -> int:
    """Return how many alerts are not delivered, and not given up."""
    query = select(func.count()).select_from(alerts).where(alerts.c.status == "pending")
    return c.scalar(query) or 0


def list_alerts(
    c: Connection,
    limit: int,
    cursor: str | None = None,
    account: str | None = None,
    status: str | None = None,
) -> Page[dict[str, Any]]:
    """Return a page of the alerts, newest first. Raises `Refusal` (422) for a bad cursor."""
    query = select(alerts.c.no, *_SHOWN).order_by(alerts.c.no.desc()).limit(limit + 1)
    if account is not None:
        query = query.where(alerts.c.account == account)
    if status is not None:
        query = query.where(alerts.c.status == status)
    if cursor is not None:
        (before,) = decode_cursor(cursor, 1)
        query = query.where(alerts.c.no < before)
    rows = [dict(row) for row in c.execute(query).mappings()]
    return page_of(rows, limit, lambda row: (row["no"],))


def replay(c: Connection, id: str, now_ms: int) -> dict[str, Any] | None:
    """Make an alert due again, whatever became of it. None when there is no such alert."""
    again = update(alerts).where(alerts.c.id == id)
    values = {"status": "pending", "attempts": 0, "due_ms": now_ms, "error": None, "answer": None}
    row = c.execute(again.values(values).returning(*_SHOWN)).mappings().one_or_none()
    return None if row is None else dict(row)
