"""One batch of a shard's events, posted: rows, sums, transfers, and what could not be posted.

Everything happens in the transaction that the caller opened. Events that Postgres refuses
(classes 22 and 23) are found by halving the batch; they become dead letters, their amounts go to
`suspense`, and the rest is posted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError

from persistence.database import is_poison
from persistence.errors import BadEvent
from persistence.events import Event, details_of, event_id
from persistence.generations import RefillKind, add_refill
from persistence.letters import BatchKey, DeadLetter, Entry, known_repeats, sequenced, write_letter
from persistence.rollup import GenerationKey, Numbers, Sums, UnknownGrant, apply_sums, roll_up
from persistence.tables import duplicate_events
from persistence.transfers import SUSPENSE, Transfer, ledger_account, post
from persistence.usage_copy import COLUMNS, UsageRow, encode_rows


@dataclass(slots=True)
class Posted:
    """What became of a batch: the inserted rows, their transfers, and the exceptions."""

    rows: list[UsageRow] = field(default_factory=list)
    transfers: list[tuple[int, int, int, int, str]] = field(default_factory=list)
    duplicates: list[UsageRow] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    replayed: int = 0

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
        self._numbers: dict[GenerationKey, Numbers] = {}

    def post(self, entries: Sequence[Entry]) -> Posted:
        """Post `entries`; what is out of sequence or refused is in `dead` of the answer."""
        seqs = self._lock_generations(entries)
        good, bad = sequenced(entries, seqs)
        posted = self._post_or_halve(good)
        self._suspend(posted)
        self._bury_bad(bad, posted)
        return posted

    def _lock_generations(self, entries: Sequence[Entry]) -> dict[GenerationKey, int]:
        pairs = sorted({(event.account, event.generation) for _, _, event in entries})
        values = {"accounts": [a for a, _ in pairs], "gens": [g for _, g in pairs]}
        suspense = ledger_account(self._connection, SUSPENSE)
        seqs = {}
        for row in self._connection.execute(_LOCK_GENERATIONS, values):
            seqs[row.account, row.gen] = int(row.seq)
            self._numbers[row.account, row.gen] = Numbers(
                row.available_no, row.lent_no, row.spent_no, row.expired_no, suspense
            )
        return seqs

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
        for row in rows:
            is_new = row.event_id in inserted and firsts[row.event_id] is row
            (posted.rows if is_new else posted.duplicates).append(row)
        sums = roll_up(row.event for row in posted.rows)
        for row in posted.duplicates:
            entry = sums.setdefault((row.event.account, row.event.generation), Sums())
            entry.dropped += row.event.amount
            entry.pass_by(row.event)
        posted.transfers = self._apply(sums)
        self._give_back(posted.duplicates)
        return posted

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
        apply_sums(self._connection, sums, self._key.at_ms)
        reference = self._key.reference
        moves: list[Transfer] = []
        for (account, gen), entry in sorted(sums.items()):
            moves += entry.transfers(account, self._numbers[account, gen], reference)
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
            if event.allocations and self._is_present(event):
                payload = {
                    "allocations": event.allocations,
                    "amount": event.amount,
                    "seq": event.seq,
                }
                kind, amount = RefillKind.RESTORE, event.amount
                add_refill(self._connection, event.account, kind, 0, payload, restored=amount)

    def _is_present(self, event: Event) -> bool:
        query = sa.text("SELECT generation FROM accounts WHERE account = :account")
        present = self._connection.scalar(query, {"account": event.account})
        return bool(present == event.generation)

    def _suspend(self, posted: Posted) -> None:
        """Bury what was refused, all of it at once, and move its amounts to `suspense`."""
        sums: dict[GenerationKey, Sums] = {}
        for letter in posted.dead:
            write_letter(self._connection, self._key, letter)
            event = letter.event
            assert event is not None
            entry = sums.setdefault((event.account, event.generation), Sums())
            entry.suspended += event.amount
            entry.pass_by(event)
        posted.transfers += self._apply(sums)

    def _bury_bad(self, bad: Sequence[DeadLetter], posted: Posted) -> None:
        """Bury what is out of sequence, but for exact repeats of what the ledger has."""
        known = known_repeats(self._connection, bad)
        sums: dict[GenerationKey, Sums] = {}
        for letter in bad:
            if letter.stream_id in known:
                posted.replayed += 1
                continue
            write_letter(self._connection, self._key, letter)
            posted.dead.append(letter)
            event = letter.event
            if event is not None and (event.account, event.generation) in self._numbers:
                entry = sums.setdefault((event.account, event.generation), Sums())
                entry.suspended += event.amount
                entry.is_frozen = True
        posted.transfers += self._apply(sums)


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).partition("\n")[0][:500]


_LOCK_GENERATIONS: Final = sa.text(
    """
    SELECT g.account, g.gen, g.seq, g.available_no, g.lent_no, g.spent_no, g.expired_no
    FROM generations g
    JOIN unnest(:accounts, :gens) AS v (account, gen) ON g.account = v.account AND g.gen = v.gen
    ORDER BY g.account, g.gen FOR NO KEY UPDATE OF g
    """
).bindparams(
    sa.bindparam("accounts", type_=ARRAY(sa.Text)),
    sa.bindparam("gens", type_=ARRAY(sa.Integer)),
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
