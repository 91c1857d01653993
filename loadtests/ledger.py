"""The ledger's side of a load run: accounts with credits before it, the truth about it after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import redis
import sqlalchemy as sa
from sqlalchemy import Engine

from loadtests.receipts import Key
from persistence.accounts import put_account
from persistence.database import in_transaction
from persistence.grants import GrantRequest, add_grant
from sidecar import keys
from sidecar.domain import Category

_CHUNK: Final = 50
_POLL_SECONDS: Final = 0.05
_CATEGORIES: Final = tuple(Category)


class NotInTime(Exception):
    """Raised when refills or flushes take longer than they may."""


@dataclass(slots=True)
class Truth:
    """What the ledger says about some accounts. Amounts are microcredits, refunds positive."""

    settled: dict[Key, int] = field(default_factory=dict)
    debited: dict[Key, int] = field(default_factory=dict)
    refunded: dict[Key, int] = field(default_factory=dict)
    finals: dict[Key, int] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    granted: dict[str, int] = field(default_factory=dict)


def make_accounts(engine: Engine, names: Sequence[str], granted: int, grants: int) -> None:
    """Make accounts with `granted` microcredits each, in `grants` parts of different kinds."""
    for at in range(0, len(names), _CHUNK):
        chunk = names[at : at + _CHUNK]
        in_transaction(engine, partial(_make, chunk, granted, grants))


def top_up(engine: Engine, account: str, id: str, amount: int) -> None:
    """Add one paid grant."""
    request = GrantRequest(account, id, amount, Category.PAID, reference="load run")
    in_transaction(engine, lambda c: add_grant(c, request))


def wait_applied(engine: Engine, names: Sequence[str], *, seconds: float) -> None:
    """Wait until Redis has every refill of the accounts. Raises `NotInTime`."""

    def is_applied() -> bool:
        with engine.connect() as connection:
            return not connection.scalar(_PENDING, {"names": list(names)})

    _wait(is_applied, seconds, "refills are not applied")


def wait_flushed(engine: Engine, client: redis.Redis, *, seconds: float) -> None:
    """Wait until the ledger has all that is in the streams now. Raises `NotInTime`."""
    with engine.connect() as connection:
        epochs = {row.shard: row.epoch for row in connection.execute(_SHARDS)}
    wanted = {shard: _last_id(client, shard, epoch) for shard, epoch in epochs.items()}

    def is_flushed() -> bool:
        with engine.connect() as connection:
            rows = connection.execute(_SHARDS).all()
        return all(_id(row.cursor) >= wanted.get(row.shard, (0, 0)) for row in rows)

    _wait(is_flushed, seconds, "events are not flushed")


def read_truth(engine: Engine, names: Sequence[str]) -> Truth:
    """Read what the ledger says about the accounts."""
    truth, values = Truth(), {"names": list(names)}
    by_operation = {"settle": truth.settled, "debit": truth.debited, "refund": truth.refunded}
    with engine.connect() as connection:
        for row in connection.execute(_BY_ID, values):
            key, amount = (row.account, row.id), int(row.amount)
            by_operation[row.operation][key] = -amount if row.operation == "refund" else amount
            if row.operation == "settle":
                truth.finals[key] = int(row.finals)
            truth.usage[row.account] = truth.usage.get(row.account, 0) + amount
        for row in connection.execute(_SPENT, values):
            truth.spent[row.account] = int(row.spent)
            truth.granted[row.account] = int(row.granted)
    return truth


def _make(names: Sequence[str], granted: int, grants: int, connection: sa.Connection) -> None:
    for name in names:
        put_account(connection, name, {"name": "load run"})
        for at, amount in enumerate(_parts(granted, grants)):
            category = _CATEGORIES[at % len(_CATEGORIES)]
            request = GrantRequest(name, f"grant-{at}", amount, category, priority=at * 3 % 100)
            add_grant(connection, request)


def _parts(amount: int, count: int) -> Iterator[int]:
    for at in range(count):
        yield amount // count + (amount % count if at == 0 else 0)


def _wait(is_done: Callable[[], bool], seconds: float, problem: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise NotInTime(f"{problem} after {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)


def _last_id(client: redis.Redis, shard: int, epoch: int) -> tuple[int, int]:
    newest: Any = client.xrevrange(keys.stream(shard, epoch), count=1)
    return _id(newest[0][0].decode()) if newest else (0, 0)


def _id(text: str) -> tuple[int, int]:
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence)


_PENDING: Final = sa.text(
    "SELECT EXISTS (SELECT FROM refills WHERE applied_ms IS NULL AND account = ANY(:names))"
)

_SHARDS: Final = sa.text("SELECT shard, epoch, cursor FROM shards WHERE epoch > 0")

_BY_ID: Final = sa.text(
    """
    SELECT account, id, operation, sum(amount) AS amount, count(*) FILTER (WHERE final) AS finals
    FROM usage_events
    WHERE account = ANY(:names) AND operation IN ('settle', 'debit', 'refund')
    GROUP BY account, id, operation
    """
)

_SPENT: Final = sa.text(
    """
    SELECT a.account, a.granted_total AS granted,
        (SELECT sum(g.spent) FROM generations g WHERE g.account = a.account) AS spent
    FROM accounts a WHERE a.account = ANY(:names)
    """
)
