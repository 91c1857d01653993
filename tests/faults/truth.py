"""What the ledger says about the accounts under load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Engine

from persistence.accounts import put_account
from persistence.database import in_transaction
from persistence.grants import GrantRequest, add_grant
from sidecar.domain import Category
from tests.faults.flows import Account


class Event(msgspec.Struct, frozen=True):
    """One usage event of the ledger. `amount`: charges positive, refunds negative."""

    account: str
    generation: int
    seq: int
    operation: str
    id: str
    amount: int
    total: int
    final: bool
    late: bool
    degraded: bool


class Refill(msgspec.Struct, frozen=True):
    """What one refill of a generation gives (or takes), in their order by number."""

    account: str
    generation: int
    number: int
    kind: str
    amount: int


@dataclass(slots=True)
class Truth:
    """The ledger about some accounts. `balances`: what each has left, by the double entries."""

    events: list[Event] = field(default_factory=list)
    duplicates: list[tuple[str, int, int, int]] = field(default_factory=list)
    refills: list[Refill] = field(default_factory=list)
    granted: dict[str, int] = field(default_factory=dict)
    balances: dict[str, int] = field(default_factory=dict)
    overdrafts: dict[str, int] = field(default_factory=dict)


def make_accounts(engine: Engine, accounts: Sequence[Account]) -> None:
    """Make accounts with their credits."""

    def make(connection: sa.Connection) -> None:
        connection.execute(_ON_DISK)
        for account in accounts:
            fields = {
                "name": "fault harness",
                "outage_allowance": account.allowance,
                "overdraft_limit": account.overdraft,
            }
            put_account(connection, account.name, fields)
            add_grant(
                connection, GrantRequest(account.name, "first", account.granted, Category.PAID)
            )

    in_transaction(engine, make)


def top_up(engine: Engine, account: str, id: str, amount: int) -> None:
    """Add one grant."""

    def add(connection: sa.Connection) -> None:
        connection.execute(_ON_DISK)
        add_grant(connection, GrantRequest(account, id, amount, Category.PROMO))

    in_transaction(engine, add)


def read_truth(engine: Engine, accounts: Sequence[str]) -> Truth:
    """Read all of it in one snapshot."""
    names = {"names": list(accounts)}
    with engine.connect() as connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
        truth = Truth(events=[Event(*row) for row in connection.execute(_EVENTS, names)])
        truth.duplicates = [tuple(row) for row in connection.execute(_DUPLICATES, names)]
        truth.refills = [Refill(*row) for row in connection.execute(_REFILLS, names)]
        for row in connection.execute(_ACCOUNTS, names):
            truth.granted[row.account] = int(row.granted_total)
            truth.overdrafts[row.account] = int(row.overdraft_limit)
            truth.balances[row.account] = int(row.balance)
    return truth


# Also where a fault lets all other commits be lost.
_ON_DISK: Final = sa.text("SET LOCAL synchronous_commit = on")

_EVENTS: Final = sa.text(
    """
    SELECT account, generation, seq, operation, id, amount, total, final, late, degraded
    FROM usage_events WHERE account = ANY(:names) ORDER BY account, generation, seq
    """
)

_DUPLICATES: Final = sa.text(
    """
    SELECT account, generation, seq, amount FROM duplicate_events WHERE account = ANY(:names)
    ORDER BY account, generation, seq
    """
)

_REFILLS: Final = sa.text(
    """
    SELECT r.account, r.gen, r.refill_no, r.kind,
        CASE r.kind
            WHEN 'grant' THEN r.amount
            WHEN 'restore' THEN r.amount + (r.payload ->> 'amount')::bigint
            WHEN 'take' THEN -(r.payload ->> 'amount')::bigint
            ELSE 0 END
    FROM refills r
    WHERE r.account = ANY(:names) AND r.voided_ms IS NULL
    ORDER BY r.account, r.gen, r.refill_no
    """
)

_ACCOUNTS: Final = sa.text(
    """
    SELECT a.account, a.granted_total, a.overdraft_limit,
        (SELECT sum(l.balance) FROM ledger_accounts l
            WHERE l.account = a.account AND l.kind IN ('available', 'lent')) AS balance
    FROM accounts a WHERE a.account = ANY(:names)
    """
)
