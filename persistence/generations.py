"""Generations of accounts, and the numbered refills that are written for them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from persistence.database import now_ms
from persistence.transfers import open_ledger_account

REFILL_CHANNEL: Final = "credits_refill"
"""Postgres channel: an account has a new refill."""

OPENING_LOCK: Final = 0x43524544_00000002
"""Advisory lock: held shared while a generation is made, alone while shards are opened."""


class RefillKind(StrEnum):
    """What a refill does in Redis; the script of that name carries it out."""

    OPEN = "open"
    GRANT = "grant"
    TAKE = "take"
    STATUS = "status"
    RESTORE = "restore"
    ROLL = "roll"


def open_generation(
    connection: Connection, account: str, shard: int, payload: Mapping[str, Any]
) -> int:
    """Begin the account's next generation, with its `open` refill, and return its number.

    `payload` is what `open` carries: `status`, `overdraft`, `reason`, `allowance` and `mark`. The
    caller holds the account's row.
    """
    # The epoch that is read here must not change before this generation can be seen.
    connection.execute(sa.text("SELECT pg_advisory_xact_lock_shared(:k)"), {"k": OPENING_LOCK})
    gen = connection.scalars(_NEXT_GENERATION, {"account": account}).one()
    numbers = {
        "available_no": open_ledger_account(
            connection, f"available:{account}", "available", account
        ),
        "spent_no": open_ledger_account(connection, f"spent:{account}", "spent", account),
        "expired_no": open_ledger_account(connection, f"expired:{account}", "expired", account),
        "lent_no": open_ledger_account(connection, f"lent:{account}:{gen}", "lent", account, gen),
    }
    row = {"account": account, "gen": gen, "shard": shard, "created_ms": now_ms()}
    connection.execute(_OPEN_GENERATION, row | numbers)
    add_refill(connection, account, RefillKind.OPEN, 0, payload)
    return int(gen)


def add_refill(
    connection: Connection,
    account: str,
    kind: RefillKind,
    lent: int,
    payload: Mapping[str, Any],
    *,
    restored: int = 0,
) -> int | None:
    """Write the next refill of the account's generation and wake the workers; return its number.

    `lent` microcredits are counted as lent by it (its transfer is the caller's), `restored` as
    given back. None when the account's generation is superseded: nothing is lent to a lost Redis;
    the next generation begins with all that the ledger has.
    """
    values = {"account": account, "lent": lent, "restored": restored}
    row = connection.execute(_NUMBER, values).one_or_none()
    if row is None:
        return None
    connection.execute(
        _INSERT_REFILL,
        {
            "account": account,
            "gen": row.gen,
            "refill_no": row.refill_no,
            "kind": kind.value,
            "amount": lent,
            "payload": msgspec.json.encode(payload).decode(),
            "created_ms": now_ms(),
        },
    )
    connection.execute(_NOTIFY, {"channel": REFILL_CHANNEL, "account": account})
    return int(row.refill_no)


def generation_accounts(connection: Connection, account: str) -> sa.Row[Any]:
    """Lock the account's newest generation; return its `gen` and ledger accounts.

    `is_present`: it may be lent to. Otherwise it is superseded, and what comes stays `available`.
    """
    return connection.execute(_PRESENT, {"account": account}).one()


_NEXT_GENERATION: Final = sa.text(
    "UPDATE accounts SET generation = generation + 1 WHERE account = :account RETURNING generation"
)

_OPEN_GENERATION: Final = sa.text(
    """
    INSERT INTO generations (account, gen, shard, epoch, available_no, lent_no, spent_no,
        expired_no, created_ms)
    SELECT :account, :gen, s.shard, s.epoch, :available_no, :lent_no, :spent_no, :expired_no,
        :created_ms
    FROM shards s WHERE s.shard = :shard
    """
)

_NUMBER: Final = sa.text(
    """
    UPDATE generations g
    SET refill_no = g.refill_no + 1, lent = g.lent + :lent, restored = g.restored + :restored
    FROM accounts a, shards s
    WHERE a.account = :account AND g.account = a.account AND g.gen = a.generation
        AND g.state = 'open' AND s.shard = g.shard AND s.epoch = g.epoch
    RETURNING g.gen, g.refill_no
    """
)

_INSERT_REFILL: Final = sa.text(
    """
    INSERT INTO refills (account, gen, refill_no, kind, amount, payload, created_ms)
    VALUES (:account, :gen, :refill_no, :kind, :amount, CAST(:payload AS jsonb), :created_ms)
    """
)

_NOTIFY: Final = sa.text("SELECT pg_notify(:channel, :account)")

_PRESENT: Final = sa.text(
    """
    SELECT g.gen, g.available_no, g.lent_no,
        g.state = 'open' AND g.epoch = s.epoch AS is_present
    FROM accounts a JOIN generations g ON g.account = a.account AND g.gen = a.generation
    JOIN shards s ON s.shard = g.shard
    WHERE a.account = :account
    FOR NO KEY UPDATE OF g
    """
)
