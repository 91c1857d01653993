"""Refills as the ledger keeps them: which are pending, and which Redis has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.database import in_transaction, now_ms
from persistence.generations import RefillKind

BATCH_ACCOUNTS: Final = 200
"""Accounts that one round serves."""

_ACCOUNT_REFILLS: Final = 200


@dataclass(frozen=True, slots=True)
class Refill:
    """One pending or earlier refill, with where its generation lives."""

    account: str
    gen: int
    refill_no: int
    kind: RefillKind
    payload: dict[str, Any]
    shard: int
    epoch: int
    run_id: str
    applied_refill_no: int


def arguments(kind: RefillKind, payload: dict[str, Any]) -> tuple[str | int | bytes, ...]:
    """Return what a refill's script takes after epoch, generation and number."""
    if kind is RefillKind.GRANT:
        return payload["grant_no"], payload["amount"], payload["order"], payload["id"]
    if kind is RefillKind.TAKE:
        return payload["amount"], payload["grant_no"]
    if kind is RefillKind.RESTORE:
        return (msgspec.msgpack.encode(payload["allocations"]),)
    if kind is RefillKind.ROLL:
        return payload["keep"], msgspec.msgpack.encode(payload["grants"])
    # Older refills lack what was not thought of then.
    allowance, mark = payload.get("allowance", 0), payload.get("mark", 0)
    return payload["status"], payload["overdraft"], payload["reason"], allowance, mark


class RefillRows:
    """The refills of open shards, read and marked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def waiting(self, skip: Iterable[str]) -> list[str]:
        """Return accounts with pending refills, but `skip`; those that wait longest first."""
        with self._engine.connect() as connection:
            values = {"skip": sorted(skip), "limit": BATCH_ACCOUNTS}
            return list(connection.scalars(_WAITING, values))

    def pending(self, accounts: Sequence[str]) -> list[Refill]:
        """Return the next pending refills of accounts, in their order."""
        values = {"accounts": list(accounts), "limit": _ACCOUNT_REFILLS}
        with self._engine.connect() as connection:
            return [_refill(row) for row in connection.execute(_PENDING, values)]

    def between(self, after: int, refill: Refill) -> list[Refill]:
        """Return the refills after a number and before `refill`, applied or not."""
        values = {
            "account": refill.account,
            "gen": refill.gen,
            "after": after,
            "before": refill.refill_no,
        }
        with self._engine.connect() as connection:
            return [_refill(row) for row in connection.execute(_EARLIER, values)]

    def mark(self, refills: Sequence[Refill]) -> int:
        """Write down that Redis has these refills."""
        if not refills:
            return 0
        values = {
            "accounts": [refill.account for refill in refills],
            "gens": [refill.gen for refill in refills],
            "numbers": [refill.refill_no for refill in refills],
            "now": now_ms(),
        }

        def mark(connection: Connection) -> int:
            # Generations are locked in the flusher's order; refills hang on them.
            connection.execute(_LOCK_GENERATIONS, values)
            marked = connection.execute(_MARK, values).rowcount
            connection.execute(_MARK_GENERATIONS, values)
            return marked

        return in_transaction(self._engine, mark)

    def oldest_ms(self) -> int | None:
        """Return when the oldest pending refill was written, or None when there is none."""
        with self._engine.connect() as connection:
            oldest = connection.scalar(_OLDEST)
        return None if oldest is None else int(oldest)


def _refill(row: sa.Row[Any]) -> Refill:
    return Refill(
        row.account,
        row.gen,
        int(row.refill_no),
        RefillKind(row.kind),
        row.payload,
        row.shard,
        row.epoch,
        row.run_id,
        int(row.applied_refill_no),
    )


# Only what may go to Redis now: present generations, in shards whose Redis is trusted.
_SENDABLE: Final = """
    FROM refills r
    JOIN accounts a ON a.account = r.account AND a.generation = r.gen
    JOIN generations g ON g.account = r.account AND g.gen = r.gen AND g.state = 'open'
    JOIN shards s ON s.shard = g.shard AND s.epoch = g.epoch
        AND s.state <> 'suspect' AND s.is_fenced
"""

_COLUMNS: Final = """
    r.account, r.gen, r.refill_no, r.kind, r.payload, g.shard, g.epoch, s.run_id,
    g.applied_refill_no
"""

_WAITING: Final = sa.text(
    f"""
    SELECT r.account {_SENDABLE}
    WHERE r.applied_ms IS NULL AND r.voided_ms IS NULL AND r.account <> ALL(:skip)
    GROUP BY r.account ORDER BY min(r.created_ms) LIMIT :limit
    """
).bindparams(sa.bindparam("skip", type_=ARRAY(sa.Text)))

_PENDING: Final = sa.text(
    f"""
    SELECT {_COLUMNS} {_SENDABLE}
    WHERE r.applied_ms IS NULL AND r.voided_ms IS NULL AND r.account = ANY(:accounts)
        AND r.refill_no <= g.applied_refill_no + :limit
    ORDER BY r.account, r.refill_no
    """
).bindparams(sa.bindparam("accounts", type_=ARRAY(sa.Text)))

_EARLIER: Final = sa.text(
    f"""
    SELECT {_COLUMNS} {_SENDABLE}
    WHERE r.account = :account AND r.gen = :gen AND r.refill_no > :after
        AND r.refill_no < :before
    ORDER BY r.refill_no
    """
)

_OLDEST: Final = sa.text(
    """
    SELECT min(r.created_ms) FROM refills r
    JOIN generations g ON g.account = r.account AND g.gen = r.gen AND g.state = 'open'
    JOIN shards s ON s.shard = g.shard AND s.epoch = g.epoch
    WHERE r.applied_ms IS NULL AND r.voided_ms IS NULL
    """
)

_ARRAYS: Final = (
    sa.bindparam("accounts", type_=ARRAY(sa.Text)),
    sa.bindparam("gens", type_=ARRAY(sa.Integer)),
)
_VALUES: Final = "unnest(:accounts, :gens, :numbers) AS v (account, gen, refill_no)"
_NUMBERS: Final = sa.bindparam("numbers", type_=ARRAY(sa.BigInteger))

_LOCK_GENERATIONS: Final = sa.text(
    """
    SELECT FROM generations g
    WHERE (g.account, g.gen) IN (SELECT * FROM unnest(:accounts, :gens))
    ORDER BY g.account, g.gen FOR NO KEY UPDATE
    """
).bindparams(*_ARRAYS)

_MARK: Final = sa.text(
    f"""
    UPDATE refills r SET applied_ms = :now FROM {_VALUES}
    WHERE r.account = v.account AND r.gen = v.gen AND r.refill_no = v.refill_no
        AND r.applied_ms IS NULL
    """
).bindparams(*_ARRAYS, _NUMBERS)

_MARK_GENERATIONS: Final = sa.text(
    f"""
    UPDATE generations g SET applied_refill_no = greatest(g.applied_refill_no, v.refill_no)
    FROM (SELECT account, gen, max(refill_no) AS refill_no FROM {_VALUES}
        GROUP BY account, gen) AS v
    WHERE g.account = v.account AND g.gen = v.gen
    """
).bindparams(*_ARRAYS, _NUMBERS)
