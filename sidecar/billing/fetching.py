"""Fetching: an object that can go back and forth is asked for, never believed from an event."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from sidecar.billing.applying import Applying

# The listener's clock and the worker's may differ by this much. It matters for a backlog only, and
# there an object is fetched once for all the events of it that wait.
_CLOCKS_MS: Final = 60_000


def lock_object(c: Connection, id: str) -> None:
    """Let one transaction at a time fetch and write an object of Stripe's, until this one ends.

    So whatever is written last was fetched last.
    """
    c.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:id, 1398031696))"), {"id": id})


def is_newer(fetched_ms: int, one: Applying) -> bool:
    """Tell whether an object was fetched so long after an event came that it shows its effect."""
    return fetched_ms > one.received_ms + _CLOCKS_MS
