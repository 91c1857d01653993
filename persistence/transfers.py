"""Double-entry rows: the one place that writes transfers and balances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import ARRAY

SUSPENSE: Final = "suspense"
"""Name of the ledger account that holds what dead letters charged, until a person decides."""


class TransferKind(StrEnum):
    """Why credits moved."""

    GRANT = "grant"
    ADJUSTMENT = "adjustment"
    CLAWBACK = "clawback"
    LEND = "lend"
    USAGE = "usage"
    REFUND = "refund"
    EXPIRE = "expire"
    RETURN = "return"
    SUSPENSE = "suspense"
    RESIDUE = "residue"


@dataclass(frozen=True, slots=True)
class Transfer:
    """`amount` microcredits (at least 1) from the `debit` to the `credit` ledger account."""

    debit: int
    credit: int
    amount: int
    kind: TransferKind
    account: str | None
    reference: str | None = None


def post(
    connection: Connection,
    transfers: Sequence[Transfer],
    *,
    at_ms: int,
    shard: int | None = None,
    batch: int | None = None,
) -> list[int]:
    """Write transfers, move the balances, and return the transfers' ids in their order.

    The balances are locked in the order of their numbers, so posts never wait for each other in a
    circle.
    """
    if not transfers:
        return []
    _move_balances(connection, transfers)
    values = {
        "debits": [t.debit for t in transfers],
        "credits": [t.credit for t in transfers],
        "amounts": [t.amount for t in transfers],
        "kinds": [t.kind.value for t in transfers],
        "accounts": [t.account for t in transfers],
        "references": [t.reference for t in transfers],
    }
    context = {"at_ms": at_ms, "shard": shard, "batch": batch}
    return list(connection.scalars(_INSERT, values | context))


def ledger_account(connection: Connection, name: str) -> int:
    """Return the number of a ledger account that exists."""
    query = sa.text("SELECT no FROM ledger_accounts WHERE name = :name")
    return int(connection.scalars(query, {"name": name}).one())


def open_ledger_account(
    connection: Connection, name: str, kind: str, account: str, generation: int | None = None
) -> int:
    """Make a ledger account of `account`, or find it, and return its number."""
    values = {"name": name, "kind": kind, "account": account, "generation": generation}
    connection.execute(_OPEN, values)
    return ledger_account(connection, name)


def _move_balances(connection: Connection, transfers: Sequence[Transfer]) -> None:
    changes: dict[int, int] = {}
    for transfer in transfers:
        changes[transfer.debit] = changes.get(transfer.debit, 0) - transfer.amount
        changes[transfer.credit] = changes.get(transfer.credit, 0) + transfer.amount
    numbers = sorted(changes)
    connection.execute(_LOCK, {"numbers": numbers})
    connection.execute(
        _MOVE, {"numbers": numbers, "changes": [changes[number] for number in numbers]}
    )


_BIGINTS: Final = ARRAY(sa.BigInteger)
_TEXTS: Final = ARRAY(sa.Text)

_LOCK: Final = sa.text(
    "SELECT FROM ledger_accounts WHERE no = ANY(:numbers) ORDER BY no FOR NO KEY UPDATE"
).bindparams(sa.bindparam("numbers", type_=_BIGINTS))

_MOVE: Final = sa.text(
    """
    UPDATE ledger_accounts AS l SET balance = l.balance + c.change
    FROM unnest(:numbers, :changes) AS c (no, change)
    WHERE l.no = c.no
    """
).bindparams(
    sa.bindparam("numbers", type_=_BIGINTS),
    sa.bindparam("changes", type_=ARRAY(sa.Numeric(38, 0, asdecimal=False))),
)

_INSERT: Final = sa.text(
    """
    INSERT INTO transfers
        (at_ms, debit_account, credit_account, amount, kind, reference, account, shard, batch)
    SELECT :at_ms, t.debit, t.credit, t.amount, t.kind, t.reference, t.account,
        CAST(:shard AS integer), CAST(:batch AS bigint)
    FROM unnest(:debits, :credits, :amounts, :kinds, :references, :accounts)
        WITH ORDINALITY AS t (debit, credit, amount, kind, reference, account, place)
    ORDER BY t.place
    RETURNING id
    """
).bindparams(
    sa.bindparam("debits", type_=_BIGINTS),
    sa.bindparam("credits", type_=_BIGINTS),
    sa.bindparam("amounts", type_=_BIGINTS),
    sa.bindparam("kinds", type_=_TEXTS),
    sa.bindparam("references", type_=_TEXTS),
    sa.bindparam("accounts", type_=_TEXTS),
)

_OPEN: Final = sa.text(
    """
    INSERT INTO ledger_accounts (name, kind, account, generation)
    VALUES (:name, :kind, :account, :generation)
    ON CONFLICT (name) DO NOTHING
    """
)
