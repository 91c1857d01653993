"""The monthly partitions of the usage events, made ahead of time."""

from __future__ import annotations

import datetime as dt
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

MONTHS_AHEAD: Final = 3
"""Partitions that stand ready after the present month's."""

_MONTHS_BEHIND: Final = 1  # an id of the caller's may be some days older than its event


def ensure_partitions(connection: Connection, today: dt.date) -> list[str]:
    """Make the partitions that are missing, from last month to `MONTHS_AHEAD`; return their names.

    A month whose rows have already gone to the default partition is left there.
    """
    connection.execute(sa.text("SET LOCAL lock_timeout = '2s'"))
    existing = set(connection.scalars(sa.text(_EXISTING)))
    made = []
    for offset in range(-_MONTHS_BEHIND, MONTHS_AHEAD + 1):
        first, after = _month(today, offset), _month(today, offset + 1)
        name = f"usage_events_{first:%Y_%m}"
        if name not in existing and not _default_has(connection, first, after):
            _make(connection, name, first, after)
            made.append(name)
    return made


_EXISTING: Final = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'usage_events'::regclass
"""


def _month(today: dt.date, offset: int) -> dt.date:
    year, month = divmod(today.year * 12 + today.month - 1 + offset, 12)
    return dt.date(year, month + 1, 1)


def first_id(day: dt.date) -> str:
    """Return the smallest UUIDv7-ordered id of a day that begins at midnight UTC."""
    at_ms = int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp()) * 1000
    digits = f"{at_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"


def _default_has(connection: Connection, first: dt.date, after: dt.date) -> bool:
    query = sa.text(
        "SELECT EXISTS (SELECT FROM usage_events_default"
        " WHERE event_id >= CAST(:first AS uuid) AND event_id < CAST(:after AS uuid))"
    )
    bounds = {"first": first_id(first), "after": first_id(after)}
    return bool(connection.scalar(query, bounds))


def _make(connection: Connection, name: str, first: dt.date, after: dt.date) -> None:
    connection.execute(
        sa.text(
            f"CREATE TABLE {name} PARTITION OF usage_events"
            f" FOR VALUES FROM ('{first_id(first)}') TO ('{first_id(after)}')"
        )
    )
    connection.execute(
        sa.text(
            f"CREATE TRIGGER {name}_no_truncate BEFORE TRUNCATE ON {name}"
            " FOR EACH STATEMENT EXECUTE FUNCTION credits_refuse_change()"
        )
    )
