"""Dead letters: events that cannot be posted, written down and never dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

from persistence.events import Event
from persistence.tables import dead_letters

Entry = tuple[str, bytes, Event]
"""Stream id, the raw field, and the event in it."""


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Which batch this is: part of every row that it writes."""

    shard: int
    batch: int
    at_ms: int

    @property
    def reference(self) -> str:
        """What its transfers refer to."""
        return f"flush:{self.shard}:{self.batch}"


@dataclass(slots=True)
class DeadLetter:
    """An entry that could not be posted, and why."""

    stream_id: str
    raw: bytes
    reason: str
    error: str
    event: Event | None = None


def is_known_letter(connection: Connection, letter: DeadLetter) -> bool:
    """Tell whether the same event is a dead letter already: a journal may be handed in twice."""
    event = letter.event
    if event is None:
        return False
    values = {
        "account": event.account,
        "generation": event.generation,
        "seq": event.seq,
        "raw": letter.raw,
    }
    return bool(connection.scalar(_IS_KNOWN, values))


def write_letter(connection: Connection, key: BatchKey, letter: DeadLetter) -> None:
    """Write a dead letter into its table."""
    event = letter.event
    connection.execute(
        dead_letters.insert().values(
            shard=key.shard,
            stream_id=letter.stream_id,
            raw=letter.raw,
            reason=letter.reason,
            error=letter.error,
            account=event and event.account,
            generation=event and event.generation,
            seq=event and event.seq,
            amount=event and event.amount,
            created_ms=key.at_ms,
        )
    )


_IS_KNOWN: Final = sa.text(
    """
    SELECT EXISTS (
        SELECT FROM dead_letters
        WHERE account = :account AND generation = :generation AND seq = :seq AND raw = :raw)
    """
)
