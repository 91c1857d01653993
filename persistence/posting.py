"""One batch of a shard's events, posted: rows, sums, transfers, and what could not be posted.

Everything happens in the transaction that the caller opened. Events that Postgres refuses
(classes 22 and 23) are found by halving the batch; they become dead letters, their amounts go to
`suspense`, and the rest is posted. What a lost generation was charged is posted whatever its
grants say: an unacknowledged refund may be missing that had given back what was spent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as SQL_UUID
from sqlalchemy.exc import DBAPIError

from persistence.database import is_poison
from persistence.errors import BadEvent
from persistence.events import Event, details_of, event_id
from persistence.generations import RefillKind, add_refill, generation_accounts
from persistence.letters import BatchKey, DeadLetter, Entry, is_known_letter, write_letter
from persistence.lives import Life, beyond_grants, lock_lives, ordered
from persistence.recovery import Cause
from persistence.rollup import GenerationKey, Sums, UnknownGrant, apply_sums, roll_up
from persistence.tables import duplicate_events
from persistence.transfers import Transfer, TransferKind, post
from persistence.usage_copy import COLUMNS, UsageRow, encode_rows
from sidecar.domain import USAGE_OPERATIONS

_Place = tuple[bytes, str, int, int, int]
"""Event id, account, generation, seq and amount: by these an event is the same."""


@dataclass(slots=True)
class Posted:
    """What became of a batch: the inserted rows, their transfers, and the exceptions."""

    rows: list[UsageRow] = field(default_factory=list)
    transfers: list[tuple[int, int, int, int, str]] = field(default_factory=list)
    duplicates: list[UsageRow] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    replayed: int = 0
    cause: Cause | None = None
    """Why the shard's Redis is to be given up, if it is."""

    def add(self, other: Posted) -> None:
        """Take in what became of a part of the batch."""
        self.rows += other.rows
        self.transfers += other.transfers
        self.duplicates += other.duplicates
        self.dead += other.dead
        self.replayed += other.replayed


class Posting:
    """Posts the entries of one batch in their order."""

    def __init__(self, connection: Connection, key: BatchKey) -> None:
        self._connection = connection
        self._key = key
        self._lives: dict[GenerationKey, Life] = {}

    def post(self, entries: Sequence[Entry]) -> Posted:
        """Post `entries`; what cannot be posted is in `dead` of the answer."""
        self._lives = lock_lives(self._connection, entries)
        order = ordered(entries, self._lives)
        posted = self._post_or_halve(order.events)
        refused = self._bury([*posted.dead, *order.closed], posted)
        self._suspend(refused, posted)
        unknown = self._bury(order.unknown, posted)
        posted.dead = refused + unknown
        if unknown:
            posted.cause = Cause.LEDGER_BEHIND
        elif order.is_gap:
            posted.cause = Cause.GAP
        elif order.again and _has_news(posted, order.again):
            posted.cause = Cause.REGRESSION
        return posted

    def _post_or_halve(self, entries: Sequence[Entry]) -> Posted:
        if not entries:
            return Posted()
        try:
            with self._connection.begin_nested():
                return self._post_all(entries)
        except (DBAPIError, psycopg.Error) as error:
            if not is_poison(error):
                raise
            refusal: Exception = error
        except (UnknownGrant, BadEvent) as error:
            refusal = error
        if len(entries) == 1:
            stream_id, raw, event = entries[0]
            if self._is_excused(event):
                return self._post_or_halve([beyond_grants(entries[0])])
            letter = DeadLetter(stream_id, raw, "refused", _first_line(refusal), event)
            return Posted(dead=[letter])
        middle = len(entries) // 2
        posted = self._post_or_halve(entries[:middle])
        posted.add(self._post_or_halve(entries[middle:]))
        return posted

    def _post_all(self, entries: Sequence[Entry]) -> Posted:
        rows = [UsageRow(event_id(event), event, details_of(event)) for _, _, event in entries]
        firsts = {row.event_id: row for row in reversed(rows)}
        inserted = self._insert(firsts)
        posted = Posted()
        others: list[UsageRow] = []
        for row in rows:
            is_new = row.event_id in inserted and firsts[row.event_id] is row
            (posted.rows if is_new else others).append(row)
        if others:
            self._tell_apart(others, posted)
        sums = roll_up(row.event for row in posted.rows)
        for row in posted.duplicates:
            entry = sums.setdefault((row.event.account, row.event.generation), Sums())
            entry.dropped += row.event.amount
            entry.pass_by(row.event)
        closed = [key for key in sums if self._lives[key].is_closed]
        for key in closed:
            sums[key].residue = sums[key].refund - sums[key].usage
        posted.transfers = self._apply(sums)
        self._give_back(posted.duplicates)
        for account, gen in closed:
            self._even_out(account, sums[account, gen].residue)
        return posted

    def _is_excused(self, event: Event) -> bool:
        """Tell whether an event that is refused is posted all the same, beyond all grants."""
        life = self._lives[event.account, event.generation]
        is_lost = life.is_doubted or not life.is_present
        has_grants = event.amount != 0 and event.allocations != [0, event.amount]
        return is_lost and has_grants and event.operation in USAGE_OPERATIONS

    def _tell_apart(self, rows: Sequence[UsageRow], posted: Posted) -> None:
        """Divide rows whose id the ledger has: the same event again, or the same call elsewhere."""
        values = {
            "ids": [row.event_id.hex() for row in rows],
            "accounts": [row.event.account for row in rows],
            "gens": [row.event.generation for row in rows],
            "seqs": [row.event.seq for row in rows],
        }
        known = {
            (row.event_id.bytes, row.account, row.generation, row.seq, int(row.amount))
            for row in self._connection.execute(_KNOWN, values)
        }
        for row in rows:
            place = _place(row)
            if place in known:
                posted.replayed += 1
            else:
                known.add(place)
                posted.duplicates.append(row)

    def _insert(self, rows: dict[bytes, UsageRow]) -> set[bytes]:
        """Insert the rows that the ledger has not; return the ids of those that went in."""
        self._connection.execute(_CREATE_STAGING)
        driver: Any = self._connection.connection.driver_connection
        cursor: psycopg.Cursor[Any] = driver.cursor()
        data = encode_rows(rows.values(), self._key.shard, self._key.batch)
        with cursor, cursor.copy(_COPY) as copy:
            copy.write(data)
        returned: bytes = self._connection.scalars(_INSERT).one() or b""
        ids = {returned[place : place + 16] for place in range(0, len(returned), 16)}
        self._connection.execute(_CLEAR_STAGING)
        return ids

    def _apply(self, sums: dict[GenerationKey, Sums]) -> list[tuple[int, int, int, int, str]]:
        apply_sums(self._connection, sums)
        reference = self._key.reference
        moves: list[Transfer] = []
        for (account, gen), entry in sorted(sums.items()):
            moves += entry.transfers(account, self._lives[account, gen].numbers, reference)
        key = self._key
        ids = post(self._connection, moves, at_ms=key.at_ms, shard=key.shard, batch=key.batch)
        return [
            (id, move.debit, move.credit, move.amount, move.kind.value)
            for id, move in zip(ids, moves, strict=True)
        ]

    def _give_back(self, duplicates: Iterable[UsageRow]) -> None:
        """Write down duplicates, and the refills that give back what Redis charged for them."""
        for row in duplicates:
            event = row.event
            values = {
                "account": event.account,
                "generation": event.generation,
                "seq": event.seq,
                "event_id": row.event_id.hex(),
                "amount": event.amount,
                "shard": self._key.shard,
                "batch": self._key.batch,
            }
            self._connection.execute(duplicate_events.insert().values(values))
            if event.allocations and self._lives[event.account, event.generation].is_present:
                payload = {
                    "allocations": event.allocations,
                    "amount": event.amount,
                    "seq": event.seq,
                }
                kind, amount = RefillKind.RESTORE, event.amount
                add_refill(self._connection, event.account, kind, 0, payload, restored=amount)

    def _even_out(self, account: str, residue: int) -> None:
        """Move what a closed generation lacks now, or has too much, in the present one."""
        if residue < 0:
            payload = {"amount": -residue, "grant_no": 0, "id": self._key.reference}
            add_refill(self._connection, account, RefillKind.TAKE, 0, payload)
        elif residue > 0:
            present = generation_accounts(self._connection, account)
            if present.is_present:
                lend = TransferKind.LEND
                numbers = (present.available_no, present.lent_no)
                move = Transfer(*numbers, residue, lend, account, self._key.reference)
                post(self._connection, [move], at_ms=self._key.at_ms)
                payload = {"allocations": [0, residue], "amount": 0, "seq": 0}
                add_refill(self._connection, account, RefillKind.RESTORE, residue, payload)

    def _bury(self, letters: Sequence[DeadLetter], posted: Posted) -> list[DeadLetter]:
        """Write down dead letters; return those that are news."""
        news = [letter for letter in letters if not is_known_letter(self._connection, letter)]
        posted.replayed += len(letters) - len(news)
        for letter in news:
            write_letter(self._connection, self._key, letter)
        return news

    def _suspend(self, refused: Sequence[DeadLetter], posted: Posted) -> None:
        """Move the amounts of what was refused to `suspense`."""
        sums: dict[GenerationKey, Sums] = {}
        for letter in refused:
            event = letter.event
            assert event is not None
            entry = sums.setdefault((event.account, event.generation), Sums())
            entry.suspended += event.amount
            entry.pass_by(event)
        posted.transfers += self._apply(sums)


def _place(row: UsageRow) -> _Place:
    event = row.event
    return row.event_id, event.account, event.generation, event.seq, event.amount


def _has_news(posted: Posted, again: set[int]) -> bool:
    """Tell whether one of these events, by `id()`, was not merely a repeat."""
    news: Iterable[Event | None] = (
        *(row.event for row in posted.rows),
        *(row.event for row in posted.duplicates),
        *(letter.event for letter in posted.dead),
    )
    return any(id(event) in again for event in news)


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).partition("\n")[0][:500]


_KNOWN: Final = sa.text(
    """
    SELECT event_id, account, generation, seq, amount FROM usage_events WHERE event_id = ANY(:ids)
    UNION ALL
    SELECT event_id, account, generation, seq, amount FROM duplicate_events
    WHERE (account, generation, seq) IN (SELECT * FROM unnest(:accounts, :gens, :seqs))
    """
).bindparams(
    sa.bindparam("ids", type_=ARRAY(SQL_UUID(as_uuid=False))),
    sa.bindparam("accounts", type_=ARRAY(sa.Text)),
    sa.bindparam("gens", type_=ARRAY(sa.Integer)),
    sa.bindparam("seqs", type_=ARRAY(sa.BigInteger)),
)

# LIKE keeps the columns' order; the table lives as long as its connection.
_CREATE_STAGING: Final = sa.text("CREATE TEMP TABLE IF NOT EXISTS flush_rows (LIKE usage_events)")
_CLEAR_STAGING: Final = sa.text("TRUNCATE flush_rows")
_COPY: Final = f"COPY flush_rows ({COLUMNS}) FROM STDIN (FORMAT BINARY)"

_INSERT: Final = sa.text(
    f"""
    WITH inserted AS (
        INSERT INTO usage_events ({COLUMNS}) SELECT {COLUMNS} FROM flush_rows
        ON CONFLICT DO NOTHING RETURNING event_id
    )
    SELECT string_agg(uuid_send(event_id), ''::bytea) FROM inserted
    """
)
