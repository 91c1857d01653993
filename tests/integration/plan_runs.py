"""Seeded runs of plans on the fake Stripe's clock.

A scenario is a generator: it acts on the fake Stripe, yields whenever time may pass, and returns
what the account must have in the end. What Stripe tells meanwhile comes shuffled, partly late,
partly twice, to a worker that may die before any of its commits and that asks Stripe itself, which
is further on by then. In the end all of it comes, and all of it again.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import redis
import sqlalchemy as sa
from sqlalchemy import Engine, select

from persistence.stripe_tables import stripe_events
from sidecar.billing import invoices, plans, subscriptions
from sidecar.billing.plan_job import PlanJob
from sidecar.billing.stripe_api import StripeApi
from tests.integration import fake_stripe
from tests.integration.fake_stripe import Fake
from tests.integration.ledger_world import World
from tests.integration.shuffled import Chaos, with_crashes
from tests.integration.stripe_inbox import HOUR_MS, Inbox

Story = Generator[None, None, int]

TOLD = {*invoices.HANDLERS, *subscriptions.HANDLERS, "invoice.payment_succeeded"}
"""Types of events that are delivered: those that do something, and one that must not."""
_DELIVERS = 0.5
_AGAIN = 0.2


@dataclass
class Stage:
    """What the scenarios act on: one fake Stripe, and one worker with its ledger and Redis."""

    fake: Fake
    world: World
    inbox: Inbox
    job: PlanJob
    prices: dict[str, str] = field(default_factory=dict)
    crashes: int = 0

    def price(self, name: str, allowance: int, interval: str = "month", **plan: Any) -> str:
        """Return a price with a plan, the same one each time that it is asked for."""
        if name not in self.prices:
            self.prices[name] = self.fake.price(2_000, interval)
            changes = {"allowance": allowance, **plan}
            self.world.run(lambda c: plans.put_plan(c, self.prices[name], changes, 0))
        return self.prices[name]

    def subscribe(self, account: str, price: str, *, has_card: bool = True, **fields: Any) -> Any:
        """Let a new customer of an account subscribe to a price."""
        if has_card:
            customer, _ = self.fake.customer()
        else:
            customer = self.fake.client.v1.customers.create({}).id
        return self.fake.subscribe(customer, price, metadata={"account": account}, **fields)

    def shown(self, subscription: Any) -> Any:
        """Return a subscription as Stripe has it now."""
        return self.fake.state.objects[subscription.id]

    def change(self, subscription: Any, **fields: Any) -> None:
        """Change the only item of a subscription, with an invoice at once."""
        item = self.shown(subscription)["items"]["data"][0]["id"]
        parameters: Any = {"items": [{"id": item, **fields}]}
        parameters["proration_behavior"] = "always_invoice"
        self.fake.client.v1.subscriptions.update(subscription.id, parameters)

    def renew(self, subscription: Any) -> None:
        """Move the clock to the end of the period and on until the renewal is paid, or fails."""
        end = self.shown(subscription)["items"]["data"][0]["current_period_end"]
        self.fake.advance(end - self.fake.state.now() + 2 * 3_600)

    def bank(self, subscription: Any, **answers: Any) -> None:
        """Let the bank of a subscription's customer decline, or not any more."""
        customer = self.fake.state.objects[self.shown(subscription)["customer"]]
        card = customer["invoice_settings"]["default_payment_method"]
        self.fake.control(f"cards/{card}", decline_code=answers.get("decline_code"))

    def pay(self, subscription: Any) -> None:
        """Pay the open invoice of a subscription by hand."""
        self.fake.client.v1.invoices.pay(self.shown(subscription)["latest_invoice"])


Scenario = Callable[[Stage, str], Story]


def stage_of(engine: Engine, client: redis.Redis, fake: Fake) -> Stage:
    """Return a stage over an empty ledger and Redis."""
    world = World(engine, client)
    world.opener.open_shards()
    inbox = Inbox(engine, StripeApi(fake_stripe.KEY, fake.url))
    inbox.clock.now = fake.state.now() * 1000
    return Stage(fake, world, inbox, PlanJob(engine, now_ms=inbox.clock))


def play(scenario: Scenario, seeds: range, stage: Stage) -> None:
    """Run a scenario with each seed, on an account each, and compare what is left in the end.

    The ledger, Redis and the scenario say the same, and the audit finds nothing.
    """
    engine = stage.world.engine
    for seed in seeds:
        account = f"acme-{seed}"
        stage.inbox.make_account(account)
        chaos = Chaos(engine, stage.fake, random.Random(seed), is_on=False)
        sa.event.listen(engine, "commit", chaos.before_commit)
        try:
            expected = _run(scenario, stage, account, chaos)
        finally:
            sa.event.remove(engine, "commit", chaos.before_commit)
        stage.crashes += chaos.crashes
        stage.world.sender.run_once()
        stage.world.flush()
        found = (
            stage.inbox.ledger(account),
            stage.world.account(account).number("available"),
        )
        assert found == (expected, expected), (scenario.__name__, seed, found, expected)
        _leave(stage, account)
    stage.world.assert_sound()


def _run(scenario: Scenario, stage: Stage, account: str, chaos: Chaos) -> int:
    story = scenario(stage, account)
    seen, pending, delivered = len(stage.fake.state.events), list[Any](), list[Any]()
    while True:
        expected = _step(story)
        told = stage.fake.events(after=seen)
        seen += len(told)
        pending += [one for one in told if one["type"] in TOLD]
        chaos.dice.shuffle(pending)
        if expected is not None:
            break
        count = sum(chaos.dice.random() < _DELIVERS for _ in pending)
        going, pending = pending[:count], pending[count:]
        again = [one for one in delivered if chaos.dice.random() < _AGAIN]
        delivered += going
        _work(stage, chaos, going, again)
    again = [one for one in delivered if chaos.dice.random() < _AGAIN]
    _work(stage, chaos, pending, again)
    _finish(stage, chaos, account)
    return expected


def _leave(stage: Stage, account: str) -> None:
    """Let nothing more happen to an account while others are played."""
    for one in stage.fake.state.all("subscription", metadata={"account": account}):
        if one["status"] not in ("canceled", "incomplete_expired"):
            stage.fake.client.v1.subscriptions.cancel(one["id"])
    stage.world.sql("UPDATE stripe_subscriptions SET state = 'ended' RETURNING 1")


def _step(story: Story) -> int | None:
    try:
        next(story)
    except StopIteration as end:
        expected: int = end.value
        return expected
    return None


def _work(stage: Stage, chaos: Chaos, news: list[Any], again: list[Any]) -> None:
    """Deliver, and let the worker do what it can by now; it may die at every commit."""
    stage.inbox.clock.now = max(stage.inbox.clock.now + 1, stage.fake.state.now() * 1000)
    chaos.is_on = True
    with_crashes(lambda: stage.inbox.store(*news, *again), chaos)
    for one in again:
        with_crashes(functools.partial(stage.inbox.replay, one["id"]), chaos)
    chaos.fail_once()
    with_crashes(stage.inbox.run, chaos)
    with_crashes(stage.job.run_once, chaos)
    chaos.answer_again()
    chaos.is_on = False
    if chaos.dice.random() < _DELIVERS:
        stage.world.sender.run_once()


def _finish(stage: Stage, chaos: Chaos, account: str) -> None:
    """Let what failed be tried again: out of order, one thing may have waited for another."""
    for _ in range(3):
        stage.inbox.run()
        stage.inbox.clock.now += HOUR_MS
    stage.inbox.run()
    stage.job.run_once()
    query = select(stripe_events.c.error).where(stripe_events.c.error.is_not(None))
    with stage.world.engine.connect() as c:
        errors = list(c.scalars(query))
    assert errors == [], (account, errors)
