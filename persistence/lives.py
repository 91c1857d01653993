"""The generations that a batch of events belongs to, and how its events follow on in them.

Events of the *present* generation come from its own Redis, in their order: their numbers must be
contiguous, or something of that Redis was lost. Events of *superseded* ones come out of journals,
in any order and with gaps: what nobody acknowledged is not there. To a *closed* one they come too
late, when a sidecar that was declared dead is back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.events import Event
from persistence.letters import DeadLetter, Entry
from persistence.rollup import GenerationKey, Numbers
from persistence.transfers import SUSPENSE, ledger_account
from sidecar.domain import USAGE_OPERATIONS


@dataclass(slots=True)
class Life:
    """A generation as a batch finds it. `seq`: the last event that it has.

    `is_doubted`: it is present, in a shard that is to be given up.
    """

    seq: int
    is_present: bool
    is_doubted: bool
    is_closed: bool
    numbers: Numbers


@dataclass(slots=True)
class Ordered:
    """Events that can be posted, in their order, and what was seen of it.

    `is_gap`: one of a present generation has a number beyond the next; `again`: the `id()` of
    those whose number was used before.
    """

    events: list[Entry] = field(default_factory=list)
    unknown: list[DeadLetter] = field(default_factory=list)
    closed: list[DeadLetter] = field(default_factory=list)
    is_gap: bool = False
    again: set[int] = field(default_factory=set)


def lock_lives(connection: Connection, entries: Sequence[Entry]) -> dict[GenerationKey, Life]:
    """Lock the generations of events, and return those that the ledger has.

    The newest generation of each account is locked and returned with them: what comes late to a
    closed one is evened out there.
    """
    pairs = sorted({(event.account, event.generation) for _, _, event in entries})
    values = {"accounts": [a for a, _ in pairs], "gens": [g for _, g in pairs]}
    suspense = ledger_account(connection, SUSPENSE)
    return {
        (row.account, row.gen): Life(
            int(row.seq),
            row.is_present,
            row.is_doubted,
            row.is_closed,
            Numbers(row.available_no, row.lent_no, row.spent_no, row.expired_no, suspense),
        )
        for row in connection.execute(_LOCK, values)
    }


def ordered(entries: Sequence[Entry], lives: dict[GenerationKey, Life]) -> Ordered:
    """Return what of `entries` can be posted, and as what. Moves `seq` of the lives on."""
    result = Ordered()
    events = result.events
    for entry in entries:
        event = entry[2]
        life = lives.get((event.account, event.generation))
        if life is not None and life.is_present:
            if event.seq == life.seq + 1:
                life.seq = event.seq
            elif event.seq > life.seq:
                result.is_gap = True
                life.seq = event.seq
            else:
                result.again.add(id(event))
            events.append(entry)
        elif life is None:
            result.unknown.append(_letter(entry, "unknown_generation", "no such generation"))
        elif not life.is_closed:
            events.append(entry)
        elif event.operation in USAGE_OPERATIONS:
            # Its grants are lent to another generation by now.
            events.append(beyond_grants(entry))
        else:
            result.closed.append(_letter(entry, "refused", "its generation is closed"))
    return result


def beyond_grants(entry: Entry) -> Entry:
    """Return an event as if it had been charged, or given back, beyond all grants."""
    stream_id, raw, event = entry
    allocations = [0, event.amount] if event.amount else []
    changed: Event = msgspec.structs.replace(event, allocations=allocations)
    return stream_id, raw, changed


def _letter(entry: Entry, reason: str, error: str) -> DeadLetter:
    stream_id, raw, event = entry
    return DeadLetter(stream_id, raw, reason, error, event)


_LOCK: Final = sa.text(
    """
    SELECT g.account, g.gen, g.seq, g.available_no, g.lent_no, g.spent_no, g.expired_no,
        g.state = 'closed' AS is_closed,
        g.state <> 'closed' AND g.gen = a.generation AND g.epoch = s.epoch AS is_present,
        s.state = 'suspect' AS is_doubted
    FROM accounts a
    JOIN generations g ON g.account = a.account
    JOIN shards s ON s.shard = g.shard
    WHERE a.account = ANY(:accounts) AND (g.gen = a.generation
        OR (g.account, g.gen) IN (SELECT * FROM unnest(:accounts, :gens)))
    ORDER BY g.account, g.gen FOR NO KEY UPDATE OF g
    """
).bindparams(
    sa.bindparam("accounts", type_=ARRAY(sa.Text)),
    sa.bindparam("gens", type_=ARRAY(sa.Integer)),
)
