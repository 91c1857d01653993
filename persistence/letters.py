"""Dead letters: events that cannot be posted, found, written down and never dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

from persistence.events import Event, event_id
from persistence.rollup import GenerationKey
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


def sequenced(
    entries: Sequence[Entry], seqs: dict[GenerationKey, int]
) -> tuple[list[Entry], list[DeadLetter]]:
    """Divide entries into those that follow on in their generation and those that do not."""
    good: list[Entry] = []
    bad: list[DeadLetter] = []
    for entry in entries:
        stream_id, raw, event = entry
        key = (event.account, event.generation)
        last = seqs.get(key)
        if last is not None and event.seq == last + 1:
            seqs[key] = event.seq
            good.append(entry)
            continue
        if last is None:
            reason, error = "unknown_generation", "the ledger has no such generation"
        elif event.seq <= last:
            reason, error = "regression", f"seq {event.seq} after {last}"
        else:
            reason, error = "gap", f"seq {event.seq} after {last}"
        bad.append(DeadLetter(stream_id, raw, reason, error, event))
    return good, bad


def known_repeats(connection: Connection, bad: Sequence[DeadLetter]) -> set[str]:
    """Return the stream ids of those that the ledger has, number and amount alike."""
    known = set()
    for letter in bad:
        event = letter.event
        if event is None or letter.reason != "regression":
            continue
        values = {
            "event_id": event_id(event).hex(),
            "account": event.account,
            "generation": event.generation,
            "seq": event.seq,
            "amount": event.amount,
        }
        if connection.scalar(_IS_KNOWN, values):
            known.add(letter.stream_id)
    return known


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
        SELECT FROM usage_events
        WHERE event_id = CAST(:event_id AS uuid) AND account = :account
            AND generation = :generation AND seq = :seq AND amount = :amount)
    """
)
