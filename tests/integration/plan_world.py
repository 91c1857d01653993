"""A worker's plans over a ledger, a Redis and a Stripe, driven by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, text

from persistence import plan_tables
from persistence.accounts import get_account
from persistence.top_up_tables import alerts
from sidecar.billing import invoices, plan_reads, plans, subscriptions
from sidecar.billing.applying import FAILED, IGNORED, Applying, Outcome
from sidecar.billing.errors import EventNotUnderstood, StripeRefused
from sidecar.billing.plan_job import PlanJob
from tests.integration.ledger_world import World
from tests.integration.plan_objects import START, Object
from tests.integration.stripe_inbox import Clock

HANDLERS = {**invoices.HANDLERS, **subscriptions.HANDLERS}


class Crash(BaseException):
    """The process ends here."""


@dataclass
class Shelf:
    """A Stripe that has what was laid down in it, by path, and counts what is asked for."""

    objects: dict[str, Object] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, made: Object) -> None:
        """Lay down a subscription as it is now."""
        self.objects[f"/v1/subscriptions/{made['id']}"] = made

    def get(self, path: str) -> Object:
        """Return the object at a path."""
        self.asked.append(path)
        if path not in self.objects:
            raise StripeRefused("no such object", status=404)
        return self.objects[path]

    def every(self, path: str, **_: Any) -> Any:
        """Yield the objects of a list."""
        self.asked.append(path)
        yield from self.objects[path]["data"]


@dataclass
class PlanWorld:
    """What the tests of plans work with; `stripe` may be a fake one that is asked over HTTP."""

    world: World
    stripe: Any = field(default_factory=Shelf)
    clock: Clock = field(default_factory=lambda: Clock(START * 1000 + 5_000))

    def __post_init__(self) -> None:
        self.world.opener.open_shards()
        self.job = PlanJob(self.world.engine, now_ms=self.clock)

    def plan(self, price: str = "price_pro", **changes: Any) -> None:
        """Make or change a plan."""
        self.world.run(lambda c: plans.put_plan(c, price, changes, self.clock()))

    def apply(
        self, kind: str, subject: Object, *, received_ms: int | None = None, crashes: bool = False
    ) -> Outcome:
        """Apply an event as the inbox does; `crashes` just before it commits."""
        handler = HANDLERS.get(kind)
        if handler is None:
            return Outcome(IGNORED)
        with self.world.engine.begin() as c:
            received = self.clock() if received_ms is None else received_ms
            one = Applying(
                c=c,
                stripe=self.stripe,
                type=kind,
                subject=subject,
                previous={},
                livemode=False,
                received_ms=received,
                now_ms=self.clock(),
            )
            try:
                with c.begin_nested():
                    outcome = handler(one)
            except (EventNotUnderstood, StripeRefused) as error:
                outcome = Outcome(FAILED, str(error))
            if crashes:
                raise Crash
        return outcome

    def paid(self, made: Object) -> Outcome:
        """Apply `invoice.paid`."""
        return self.apply("invoice.paid", made)

    def updated(self, made: Object) -> Outcome:
        """Let Stripe have a subscription as it is now, and tell of it."""
        self.stripe.put(made)
        return self.apply("customer.subscription.updated", made)

    def sync(self) -> None:
        """Carry out in Redis what the ledger decided, and bring back what came of it."""
        self.world.sender.run_once()
        self.world.flush()

    def ledger(self, account: str = "acme") -> int:
        """Return what an account has left by the ledger, when all is carried out."""
        self.sync()
        with self.world.engine.connect() as c:
            row = get_account(c, account)
        assert row is not None
        return row.ledger

    def status(self, account: str = "acme") -> str:
        """Return whether an account may spend."""
        with self.world.engine.connect() as c:
            row = get_account(c, account)
        assert row is not None
        return row.status.value

    def rests(self, account: str = "acme") -> dict[str, int]:
        """Return the grants of an account that have something left, by id."""
        self.sync()
        query = text(
            "SELECT id, amount - used - expired - returned FROM grants WHERE account = :a"
            " AND amount > used + expired + returned ORDER BY grant_no"
        )
        with self.world.engine.connect() as c:
            return {id: int(rest) for id, rest in c.execute(query, {"a": account})}

    def rows(self, table: Any = plan_tables.allowances) -> list[dict[str, Any]]:
        """Return all rows of a table, allowances by item and start."""
        query = select(table)
        if table is plan_tables.allowances:
            query = query.order_by(table.c.subscription_item, table.c.starts_ms)
        with self.world.engine.connect() as c:
            return [dict(row) for row in c.execute(query).mappings()]

    def state(self) -> str:
        """Return the state of the only subscription."""
        (row,) = self.rows(plan_tables.stripe_subscriptions)
        return str(row["state"])

    def told(self) -> list[str]:
        """Return the kinds of the alerts, in order."""
        with self.world.engine.connect() as c:
            return list(c.scalars(select(alerts.c.kind).order_by(alerts.c.no)))

    def shown(self, account: str = "acme") -> list[dict[str, Any]]:
        """Return what operators see of an account's subscriptions."""
        with self.world.engine.connect() as c:
            return plan_reads.subscriptions_of(c, account)
