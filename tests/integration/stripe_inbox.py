"""An inbox with a worker's job on it, and a clock that moves when it is told to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select

from persistence import accounts, grants
from persistence.stripe_tables import stripe_events
from persistence.top_up_tables import alerts
from sidecar.billing import inbox_rows
from sidecar.billing.inbox import InboxJob
from sidecar.billing.stripe_api import StripeApi
from sidecar.billing.webhook import parse_event
from sidecar.metrics import WorkerMetrics
from tests.integration.stripe_events import body_of

CREDITS = 10_000_000
HOUR_MS = 3_600_000


@dataclass
class Clock:
    """A clock that stands still until somebody moves it."""

    now: int = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


@dataclass
class Inbox:
    """What the tests of the inbox work with."""

    engine: Engine
    stripe: StripeApi | None = None
    clock: Clock = field(default_factory=Clock)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.job = InboxJob(
            self.engine, WorkerMetrics(self.registry), stripe=self.stripe, now_ms=self.clock
        )

    def store(self, *events: dict[str, Any]) -> None:
        """Store events as the webhook does."""
        with self.engine.begin() as c:
            for one in events:
                inbox_rows.store(c, parse_event(body_of(one)), self.clock())

    def run(self) -> None:
        """Apply what is due until nothing is."""
        while self.job.run_once():
            pass

    def apply(self, *events: dict[str, Any]) -> None:
        """Store events and apply each before the next one comes."""
        for one in events:
            self.store(one)
            self.run()

    def spend(self, amount: int, name: str = "acme") -> None:
        """Take credits away as usage does, in the ledger only."""
        with self.engine.begin() as c:
            id = f"spent-{self.clock.now}-{amount}"
            grants.add_adjustment(c, name, id, -amount, "spent")

    def replay(self, id: str) -> None:
        """Make an event due again, as an operator does."""
        with self.engine.begin() as c:
            assert inbox_rows.replay(c, id, self.clock()) is not None

    def make_account(self, name: str = "acme") -> None:
        """Make an account."""
        with self.engine.begin() as c:
            accounts.put_account(c, name, {})

    def status(self, name: str = "acme") -> str:
        """Return whether an account may spend."""
        with self.engine.connect() as c:
            row = accounts.get_account(c, name)
            assert row is not None
            return row.status.value

    def alerts(self) -> list[str]:
        """Return the kinds of the alerts, in their order."""
        with self.engine.connect() as c:
            return list(c.scalars(select(alerts.c.kind).order_by(alerts.c.no)))

    def ledger(self, name: str = "acme") -> int:
        """Return what the ledger says an account has left."""
        with self.engine.connect() as c:
            row = accounts.get_account(c, name)
            assert row is not None
            return row.ledger

    def rows(self, table: Any) -> list[dict[str, Any]]:
        """Return all rows of a table."""
        with self.engine.connect() as c:
            return [dict(row) for row in c.execute(select(table)).mappings()]

    def statuses(self) -> list[str]:
        """Return the status of every event, in the order of arrival."""
        with self.engine.connect() as c:
            query = select(stripe_events.c.status).order_by(stripe_events.c.no)
            return list(c.scalars(query))

    def value(self, name: str, **labels: str) -> float | None:
        """Return a metric of the worker."""
        return self.registry.get_sample_value(name, labels)
