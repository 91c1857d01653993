"""An account with a card at a fake Stripe, and the jobs that top it up, driven by hand."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import redis
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select, text

from persistence import accounts
from persistence.money_tables import offers
from persistence.top_up_tables import alerts, auto_top_up_attempts, auto_top_ups
from sidecar.billing.auto_top_up import AutoTopUp
from sidecar.billing.inbox import InboxJob
from sidecar.billing.stripe_api import StripeApi
from sidecar.billing.watch import Watch
from sidecar.billing.watch_standing import Standings
from sidecar.metrics import MoneyMetrics, WorkerMetrics
from tests.integration.fake_stripe import KEY, Fake
from tests.integration.ledger_world import World
from tests.integration.stripe_inbox import HOUR_MS, Clock, Inbox

AMOUNT = 10_000_000
THRESHOLD = 5_000_000
MINUTE_MS = 60_000
DAY_MS = 24 * HOUR_MS


class TopUpWorld:
    """One worker's money side over a ledger, a Redis and a fake Stripe. Ten credits are 1000."""

    def __init__(self, engine: Engine, client: redis.Redis, fake: Fake) -> None:
        self.engine = engine
        self.fake = fake
        self.world = World(engine, client)
        self.clock = Clock(time.time_ns() // 1_000_000)
        self.registry = CollectorRegistry()
        self.metrics = MoneyMetrics(self.registry)
        self.api = StripeApi(KEY, fake.url, timeout_s=1.0)
        self.standings = Standings(engine, self.world.nodes)
        self.job = self.new_job()
        self.watch = Watch(engine, self.standings, now_ms=self.clock)
        self.inbox = Inbox(engine, self.api, self.clock)
        self.customer = self.card = ""
        self._seen_events = len(fake.events())
        self._ids = itertools.count(1)

    def new_job(self, api: StripeApi | None = None) -> AutoTopUp:
        """Return the job of another worker."""
        return AutoTopUp(
            self.engine, api or self.api, self.standings, self.metrics, now_ms=self.clock
        )

    def begin(self, available: int = 1_000_000, card: str = "pm_card_visa", **more: Any) -> None:
        """Make the account with that much available, a card, and auto top-up on."""
        self.world.opener.open_shards()
        self.customer, self.card = self.fake.customer(card)
        self.world.put("acme", stripe_customer=self.customer)
        if available:
            self.world.grant("acme", available)
        self.world.sender.run_once()
        with self.engine.begin() as c:
            now = self.clock()
            row = {"id": "rate", "credits": AMOUNT, "price": 1_000, "currency": "usd"}
            times = {"created_ms": now, "updated_ms": now}
            c.execute(offers.insert().values(row | times | {"is_rate": True, "minimum_price": 50}))
        self.configure(**more)
        self._seen_events = len(self.fake.events())

    def configure(self, **changes: Any) -> None:
        """Have the auto top-up of the account, due now."""
        now = self.clock()
        values = {
            "account": "acme",
            "is_enabled": True,
            "threshold": THRESHOLD,
            "amount": AMOUNT,
            "due_ms": now,
            "created_ms": now,
            "updated_ms": now,
        }
        with self.engine.begin() as c:
            c.execute(auto_top_ups.insert().values(values | changes))

    def set(self, **changes: Any) -> None:
        """Change the settings behind everybody's back."""
        with self.engine.begin() as c:
            c.execute(auto_top_ups.update().values(changes))

    def run(self) -> None:
        """Start and send what is due, until nothing is."""
        while self.job.run_once():
            pass

    def later(self, ms: int) -> None:
        """Let time pass, here and at Stripe, hint again, and run."""
        self.pass_time(ms)
        self.run()

    def pass_time(self, ms: int) -> None:
        """Let time pass, here and at Stripe."""
        self.clock.now += ms
        self.fake.advance(ms / 1000)

    def hint(self) -> None:
        """Hint that the account is below its threshold, as the sweep of the watch does."""
        self.watch._sweep_due_ms = 0
        self.watch.run_once()

    def deliver(self) -> None:
        """Let the webhooks of all that happened at Stripe arrive, and apply them."""
        events = self.fake.events(self._seen_events)
        self._seen_events += len(events)
        self.inbox.store(*events)
        self.inbox.run()
        self.world.sender.run_once()

    def use(self, amount: int) -> None:
        """Use credits, and flush."""
        self.world.account().debit(f"use-{next(self._ids)}", amount)
        self.world.flush()

    def give(self, amount: int) -> None:
        """Grant credits, as a promotion does."""
        self.world.grant("acme", amount, f"gift-{next(self._ids)}")
        self.world.sender.run_once()

    # What there is ----------------------------------------------------------------------------

    def available(self) -> int:
        """Return what Redis has."""
        return int(self.world.account().balance()[2])

    def ledger(self) -> int:
        """Return what the ledger has."""
        with self.engine.connect() as c:
            row = accounts.get_account(c, "acme")
            assert row is not None
            return row.ledger

    def payments(self, status: str = "") -> list[dict[str, Any]]:
        """Return the PaymentIntents at Stripe, oldest first."""
        found = self.fake.state.all("payment_intent", customer=self.customer)
        return [dict(one) for one in found if status in ("", one["status"])]

    def charged(self) -> list[int]:
        """Return what was really charged, in cents."""
        return [one["amount"] for one in self.payments("succeeded")]

    def attempts(self) -> list[dict[str, Any]]:
        """Return the attempts, oldest first."""
        table = auto_top_up_attempts
        return self._rows(select(table).order_by(table.c.created_ms, table.c.id))

    def statuses(self) -> list[str]:
        """Return the status of each attempt, oldest first."""
        return [one["status"] for one in self.attempts()]

    def setting(self) -> dict[str, Any]:
        """Return the settings."""
        (row,) = self._rows(select(auto_top_ups))
        return row

    def alerts(self) -> list[tuple[str, Any]]:
        """Return kind and reason of each alert, in their order."""
        rows = self._rows(select(alerts).order_by(alerts.c.no))
        return [(row["kind"], row["data"].get("reason")) for row in rows]

    def order(self, attempt: dict[str, Any]) -> dict[str, Any]:
        """Return the order of an attempt."""
        query = text("SELECT * FROM orders WHERE id = :id")
        (row,) = self._rows(query.bindparams(id=attempt["order_id"]))
        return row

    def parameters(self) -> list[dict[str, Any]]:
        """Return what was to be sent for each attempt."""
        return [json.loads(one["parameters"]) for one in self.attempts()]

    def assert_sound(self) -> None:
        """Assert that Stripe, orders, grants and Redis say the same of what was bought."""
        self.deliver()
        bought = sum(amount * AMOUNT // 1_000 for amount in self.charged())
        granted = self._rows(text("SELECT coalesce(sum(granted), 0) AS n FROM stripe_payments"))
        assert granted[0]["n"] == bought
        self.world.assert_sound()

    def inbox_job(self) -> InboxJob:
        """Return the inbox of another worker."""
        return InboxJob(
            self.engine, WorkerMetrics(CollectorRegistry()), stripe=self.api, now_ms=self.clock
        )

    def _rows(self, query: Any) -> list[dict[str, Any]]:
        with self.engine.connect() as c:
            return [dict(row) for row in c.execute(query).mappings()]
