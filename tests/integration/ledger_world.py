"""A ledger and a Redis with the worker's parts, driven by hand: nothing happens by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import redis
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, Engine

from persistence.accounts import put_account
from persistence.asks import AccountLoader
from persistence.audit import AuditReport, audit
from persistence.database import in_transaction, now_ms
from persistence.flush import Flusher, FlushResult
from persistence.grants import GrantRequest, GrantRow, add_grant
from persistence.opening import ShardOpener
from persistence.refills import RefillSender
from persistence.registry import Registry
from persistence.reopening import Reopener
from persistence.sweep import Sweeper
from sidecar import keys
from sidecar.domain import Category
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import RedisNodes
from tests.lua.support import Account

T = TypeVar("T")


def metric(collector: Any) -> float:
    """Return the value of a metric without labels."""
    value: float = collector.collect()[0].samples[0].value
    return value


class World:
    """One worker's parts over one Redis and one database."""

    def __init__(
        self,
        engine: Engine,
        client: redis.Redis,
        *,
        batch_events: int = 5_000,
        nodes: RedisNodes | None = None,
    ) -> None:
        self.engine = engine
        self.client: Any = client  # redis-py types each reply as one that may be awaitable
        self.nodes = nodes or RedisNodes.over(client)
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.sender = RefillSender(engine, self.nodes, self.metrics)
        self.flusher = Flusher(engine, self.nodes, self.metrics, batch_events=batch_events)
        self.opener = ShardOpener(
            engine, self.nodes, self.flusher, self.metrics, is_unsafe_allowed=True
        )
        self.sweeper = Sweeper(engine, self.nodes, self.metrics)
        self.reopener = Reopener(engine, self.metrics)
        self.loader = AccountLoader(engine, self.nodes, self.sender, self.reopener, self.metrics)
        self.seconds = 0.0
        self.registry = Registry(
            engine, self.nodes, self.metrics, lost_seconds=15, clock=lambda: self.seconds
        )

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do something in one transaction."""
        return in_transaction(self.engine, work)

    def sql(self, query: str, **values: Any) -> list[Any]:
        """Return the rows of a query as tuples, a single column as its values."""
        with self.engine.begin() as connection:
            rows = [tuple(row) for row in connection.execute(sa.text(query), values)]
        return [row[0] if len(row) == 1 else row for row in rows]

    def put(self, account: str, **changes: Any) -> Account:
        """Make or change an account in the ledger; return it as Redis is driven with it."""
        self.run(lambda c: put_account(c, account, changes))
        return self.account(account)

    def account(self, account: str = "acme") -> Account:
        """Return an account as Redis is driven with it, in its newest generation."""
        generation = self.generation(account)
        client = self.nodes.of(generation.shard)
        return Account(client, account, generation.epoch, generation.gen)

    def grant(self, account: str, amount: int, id: str = "g1", **more: Any) -> GrantRow:
        """Add a grant in the ledger: paid, unless `category` says otherwise."""
        values: dict[str, Any] = {"category": Category.PAID} | more
        return self.run(lambda c: add_grant(c, GrantRequest(account, id, amount, **values)))

    def funded(self, account: str = "acme", amount: int = 1_000, **changes: Any) -> Account:
        """Return an account with one grant, open in Redis."""
        self.opener.open_shards()
        made = self.put(account, **changes)
        self.grant(account, amount)
        self.sender.run_once()
        return made

    def flush(self) -> list[FlushResult]:
        """Flush until no shard has events; return every result."""
        results: list[FlushResult] = []
        while found := self.flusher.run_once():
            results += found
        return results

    def audit(self, *, wait_s: float = 0.0) -> AuditReport:
        """Audit everything; what is not flushed is not waited for unless told."""
        return audit(self.engine, self.nodes, wait_s=wait_s)

    def assert_sound(self) -> None:
        """Flush, and assert that every line of the audit is zero."""
        self.flush()
        report = self.audit()
        assert [line for line in report.lines if not line.is_ok] == []

    def wrong_lines(self) -> dict[str, int]:
        """Return the lines of the audit that are not zero."""
        return {line.name: line.discrepancies for line in self.audit().lines if not line.is_ok}

    def generation(self, account: str = "acme") -> Any:
        """Return the account's generation, newest first, as a row."""
        with self.engine.connect() as connection:
            query = "SELECT * FROM generations WHERE account = :a ORDER BY gen DESC LIMIT 1"
            return connection.execute(sa.text(query), {"a": account}).one()

    def counters(self, grant: str = "g1", account: str = "acme") -> tuple[int, int, int]:
        """Return what of a grant was used, expired and returned."""
        query = "SELECT used, expired, returned FROM grants WHERE account = :a AND id = :g"
        (row,) = self.sql(query, a=account, g=grant)
        used, expired, returned = row
        return used, expired, returned

    def balance(self, name: str) -> int:
        """Return the balance of a ledger account."""
        (balance,) = self.sql("SELECT balance FROM ledger_accounts WHERE name = :n", n=name)
        return int(balance)

    def write_event(self, account: str, seq: int, **changes: Any) -> None:
        """Write an event to the stream by hand: a debit of 10 from the grant, unless told."""
        (place,) = self.sql(
            "SELECT g.shard, s.epoch, (SELECT min(grant_no) FROM grants WHERE account = :a)"
            " FROM accounts g JOIN shards s ON s.shard = g.shard WHERE g.account = :a",
            a=account,
        )
        shard, epoch, grant_no = place
        amount = changes.pop("amount", 10)
        event = {
            "version": 1,
            "account": account,
            "generation": 1,
            "seq": seq,
            "operation": "debit",
            "id": f"call-{seq}",
            "at_ms": now_ms(),
            "amount": amount,
            "total": amount,
            "flags": 4,
            "allocations": [grant_no, amount],
            "context": "",
            "detail": "",
        } | changes
        packed = msgspec.msgpack.encode(list(event.values()))
        client: Any = self.nodes.of(shard)
        client.xadd(keys.stream(shard, epoch), {"e": packed})
