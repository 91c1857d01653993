"""Attacks on the money side: each was a way to lose, invent or hold up somebody's credits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, Engine

from persistence import accounts
from persistence.database import make_engine
from persistence.stripe_tables import stripe_events
from persistence.top_up_tables import reconciler_runs
from sidecar.billing import customers, operators, plan_job, plan_states
from sidecar.billing.access_job import AccessJob
from sidecar.billing.errors import StripeAway, StripeRefused
from sidecar.billing.inbox import InboxJob
from sidecar.billing.plans import put_plan
from sidecar.billing.stripe_api import StripeApi
from sidecar.domain import AccountStatus
from sidecar.metrics import WorkerMetrics
from tests.integration import fake_stripe
from tests.integration.fake_stripe import Fake
from tests.integration.ledger_world import World
from tests.integration.plan_objects import (
    DAY,
    MONTH,
    START,
    Object,
    invoice,
    item,
    line,
    subscription,
)
from tests.integration.plan_world import PlanWorld
from tests.integration.stripe_events import (
    event,
    payment_succeeded,
    refund_of,
    session_completed,
)
from tests.integration.stripe_inbox import CREDITS, HOUR_MS, Inbox
from tests.integration.test_reconciler import Shop
from tests.integration.test_stripe_disputes import Bank


class Deaf(StripeApi):
    """A Stripe that answers nothing while it has an `error`; it counts what it was asked."""

    def __init__(self, error: Exception | None, **changes: Any) -> None:
        self.error = error
        self.changes = changes
        self.asked = 0

    def get(self, path: str, **parameters: Any) -> Any:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return subscription(path.rsplit("/", 1)[1], **self.changes)


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    with fake_stripe.running() as started:
        yield started


@pytest.fixture
def bank(engine: Engine, fake: Fake) -> Bank:
    inbox = Inbox(engine, StripeApi(fake_stripe.KEY, fake.url))
    inbox.make_account()
    return Bank(inbox, fake)


@pytest.fixture
def inbox(engine: Engine) -> Inbox:
    made = Inbox(engine)
    made.make_account()
    return made


def test_a_refund_without_a_charge_is_of_no_payment_without_a_charge(inbox: Inbox) -> None:
    inbox.apply(session_completed())
    inbox.apply(refund_of("pi_of_somebody_else", 500, charge=None))
    assert inbox.ledger() == CREDITS
    inbox.apply(session_completed(kind="checkout.session.async_payment_succeeded"))
    assert inbox.ledger() == CREDITS


def test_a_refund_of_a_balance_is_of_no_payment(inbox: Inbox) -> None:
    inbox.apply(session_completed())
    inbox.apply(refund_of(amount=500, charge=None, payment_intent=None))
    assert inbox.ledger() == CREDITS


def test_a_foreign_refund_in_another_currency_stops_no_payment(inbox: Inbox) -> None:
    inbox.apply(refund_of("pi_of_somebody_else", 500, charge=None, currency="eur"))
    inbox.apply(session_completed())
    assert inbox.ledger() == CREDITS


def test_a_charge_that_becomes_known_late_brings_its_refunds(inbox: Inbox) -> None:
    inbox.apply(session_completed())
    inbox.apply(refund_of(amount=500, payment_intent=None))
    assert inbox.ledger() == CREDITS  # nothing says yet whose charge that is
    inbox.apply(
        event(
            "charge.updated",
            {
                "id": "ch_of_pi_1",
                "object": "charge",
                "payment_intent": "pi_1",
                "balance_transaction": {"id": "txn_1", "fee": 59, "currency": "usd"},
                "metadata": {"purpose": "topup"},
            },
        )
    )
    assert inbox.ledger() == CREDITS // 2


# Access -------------------------------------------------------------------------------------------


def _resume(inbox: Inbox) -> None:
    with inbox.engine.begin() as c:
        operators.forgive(c, "acme", inbox.clock())
        operators.decide(c, "acme", AccountStatus.ACTIVE, "looked at", inbox.clock())


def test_an_inquiry_that_an_operator_saw_forgives_no_chargeback(bank: Bank) -> None:
    bank.inbox.spend(CREDITS // 2)
    dispute = bank.dispute("inquiry")
    _resume(bank.inbox)
    bank.step(dispute, "withdraw")
    assert (bank.inbox.ledger(), bank.inbox.status()) == (-CREDITS // 2, "suspended")


def test_a_chargeback_that_was_forgiven_and_won_counts_when_it_is_back(bank: Bank) -> None:
    bank.inbox.spend(CREDITS // 2)
    dispute = bank.dispute()
    assert bank.inbox.status() == "suspended"
    _resume(bank.inbox)
    assert bank.inbox.status() == "active"
    bank.step(dispute, "win")
    assert bank.inbox.ledger() == CREDITS // 2
    bank.step(dispute, "withdraw")
    assert (bank.inbox.ledger(), bank.inbox.status()) == (-CREDITS // 2, "suspended")


def test_usage_that_is_flushed_after_a_chargeback_suspends_too(bank: Bank) -> None:
    inbox = bank.inbox
    with inbox.engine.begin() as c:
        accounts.put_account(c, "acme", {"overdraft_limit": CREDITS})
    bank.dispute()
    assert (inbox.ledger(), inbox.status()) == (0, "active")
    inbox.spend(1)  # it was used before the chargeback
    AccessJob(inbox.engine, now_ms=inbox.clock).run_once()
    assert inbox.status() == "suspended"


# Plans --------------------------------------------------------------------------------------------


@pytest.fixture
def plans(engine: Engine, redis_client: redis.Redis) -> PlanWorld:
    made = PlanWorld(World(engine, redis_client))
    made.world.put("acme")
    made.plan(allowance=1_000)
    made.stripe.put(subscription())
    return made


def _paid_at(made: Object, at: int) -> Object:
    return made | {"status_transitions": {"paid_at": at}}


def test_a_period_that_comes_too_late_to_be_given_holds_up_no_other_plan(plans: PlanWorld) -> None:
    # A year, then months of which the second was paid too late to save what was left of the first.
    for number, paid in ((1, MONTH), (2, 2 * MONTH + 5 * DAY)):
        bill = [line(start=START + number * MONTH)]
        made = invoice(f"in_{number + 1}", bill, "subscription_cycle")
        plans.clock.now = (START + paid) * 1000
        plans.paid(_paid_at(made, START + paid))
    plans.plan("price_year", allowance=100)
    year = [line(price="price_year", end=START + 365 * DAY)]
    plans.paid(_paid_at(invoice("in_1", year), START))
    assert plans.ledger() == 1_000
    assert plans.job.run_once() == 0


def test_a_plan_that_trips_over_a_bug_holds_up_no_other_plan(
    plans: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans.plan("price_year", allowance=100, allowance_interval="month", rollover_cap=1_000)
    plans.world.put("other")
    for number, account in ((1, "acme"), (2, "other")):
        bill = [line(f"si_{number}", "price_year", end=START + 365 * DAY)]
        one = item(f"si_{number}", "price_year", current_period_end=START + 365 * DAY)
        named: Any = {"metadata": {"account": account}}
        plans.stripe.put(subscription(f"sub_{number}", items=[one], **named))
        details = named | {"subscription": f"sub_{number}"}
        plans.paid(invoice(f"in_{number}", bill, parent={"subscription_details": details}))

    def settle(c: Connection, subscription: str, now_ms: int) -> None:
        assert subscription != "sub_1", "a bug"
        plan_states.settle(c, subscription, now_ms)

    monkeypatch.setattr(plan_job, "settle", settle)
    plans.clock.now += 32 * DAY * 1000
    plans.job.run_once()
    assert plans.ledger("other") == 200


def test_the_grace_of_months_ends_although_a_year_was_paid_before_them(plans: PlanWorld) -> None:
    plans.plan("price_year", allowance=100)
    plans.paid(invoice("in_1", [line(price="price_year", end=START + 365 * DAY)]))
    plans.clock.now = (START + MONTH) * 1000
    plans.paid(invoice("in_2", [line(start=START + MONTH)], "subscription_update"))
    plans.clock.now = (START + 2 * MONTH + DAY) * 1000
    plans.updated(subscription(status="past_due"))
    assert (plans.state(), plans.status()) == ("grace", "grace")
    plans.clock.now += 3 * DAY * 1000
    assert plans.job.run_once() == 1
    assert (plans.state(), plans.status()) == ("suspended", "active")
    assert plans.told()[-2:] == ["plan.grace_ended", "plan.suspended"]


@pytest.mark.parametrize("give_up", [0, 10])
def test_a_customer_whose_account_is_named_late_gets_what_was_paid(
    engine: Engine, give_up: int
) -> None:
    stripe = Deaf(None, metadata={})
    inbox = Inbox(engine, stripe)
    inbox.make_account()
    with engine.begin() as c:
        put_plan(c, "price_pro", {"allowance": 1_000}, 0)
    details = {"metadata": {}, "subscription": "sub_1"}
    paid = invoice(parent={"subscription_details": details})
    inbox.clock.now = START * 1000
    inbox.store(event("invoice.paid", paid))
    for _ in range(20):
        inbox.run()
        inbox.clock.now += 30_000
    for _ in range(give_up):
        inbox.clock.now += HOUR_MS
        inbox.run()
    assert inbox.statuses() == ["dead" if give_up else "failed"]
    with engine.begin() as c:
        accounts.put_account(c, "acme", {"stripe_customer": "cus_1"})
        customers.wake_events(c, "cus_1", inbox.clock())
    inbox.run()
    assert inbox.statuses() == ["applied"]
    assert inbox.ledger() == 1_000


# The reconciler -----------------------------------------------------------------------------------


@pytest.fixture
def shop(engine: Engine) -> Iterator[Shop]:
    with fake_stripe.running() as own:
        made = Shop(engine, own)
        yield made
        made.job.close()


def test_an_event_whose_object_is_gone_hides_no_other(shop: Shop) -> None:
    shop.pay()
    shop.fake.advance(1)
    gone = {"id": "sub_gone", "object": "subscription", "status": "canceled"}
    newest = dict(shop.fake.state.events[-1])
    shop.fake.state.events.append(
        newest
        | {"id": "evt_gone", "type": "customer.subscription.deleted", "api_version": "2019-12-03"}
        | {"data": {"object": gone}}
    )
    shop.reconcile()
    assert shop.inbox.ledger() == CREDITS
    assert "evt_gone" in {row["id"] for row in shop.inbox.rows(stripe_events)}


def test_what_stripe_refuses_to_list_hides_nothing_else(shop: Shop) -> None:
    shop.job.run_once()
    shop.fake.advance(86_400)
    subscription = shop.fake.subscribe(shop.fake.customer()[0], shop.fake.price())
    shop.fake.state.events.clear()
    refused = "/v1/radar/early_fraud_warnings"
    every = shop.api.every

    def listed(path: str, **parameters: Any) -> Any:
        if path == refused:  # by a restricted key
            raise StripeRefused("no permission", status=403)
        return every(path, **parameters)

    shop.api.every = listed  # type: ignore[method-assign]
    with pytest.raises(StripeRefused):
        shop.job.run_once()
    stored = {row["object_id"] for row in shop.inbox.rows(stripe_events)}
    assert subscription.id in stored
    runs = {row["name"]: row["reached_ms"] for row in shop.inbox.rows(reconciler_runs)}
    assert runs["objects"] < shop.now_ms()  # it is looked for again


# The inbox ----------------------------------------------------------------------------------------


def _told_of(number: int) -> dict[str, Any]:
    return event("customer.subscription.updated", subscription(f"sub_{number}"))


def test_payments_do_not_wait_for_a_stripe_that_is_away(engine: Engine) -> None:
    stripe = Deaf(StripeAway("no answer within 10 s"))
    inbox = Inbox(engine, stripe)
    inbox.make_account()
    inbox.store(*(_told_of(number) for number in range(20)), session_completed())
    inbox.run()
    assert inbox.ledger() == CREDITS
    assert stripe.asked == 3  # each costs ten seconds
    stripe.error = None
    inbox.clock.now += 30_000
    inbox.run()
    assert set(inbox.statuses()) == {"applied"}


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_stripe_refuses_costs_no_attempt(engine: Engine, status: int) -> None:
    stripe = Deaf(StripeRefused("Expired API key", status=status))
    inbox = Inbox(engine, stripe)
    inbox.make_account()
    inbox.store(_told_of(1))
    for _ in range(12):
        inbox.run()
        inbox.clock.now += 2 * HOUR_MS
    assert inbox.statuses() == ["failed"]
    stripe.error = None
    inbox.run()
    assert inbox.statuses() == ["applied"]


def test_an_event_behind_a_lock_holds_up_no_other(inbox: Inbox, postgres_url: str) -> None:
    for name in ("acme", "other"):
        inbox.make_account(name)
    hurried = make_engine(postgres_url, statement_timeout_ms=300)
    job = InboxJob(hurried, WorkerMetrics(CollectorRegistry()), now_ms=inbox.clock)
    inbox.store(payment_succeeded("pi_1"), payment_succeeded("pi_2", account="other"))
    with inbox.engine.begin() as c:
        accounts.get_account(c, "acme", for_update=True)
        assert job.run_once() == 2
    assert (inbox.ledger("acme"), inbox.ledger("other")) == (0, CREDITS)
    (waiting,) = [row for row in inbox.rows(stripe_events) if row["status"] == "failed"]
    assert (waiting["attempts"], "locked" in waiting["error"]) == (0, True)

    inbox.clock.now += 15_000
    assert job.run_once() == 1
    assert inbox.ledger("acme") == CREDITS
    hurried.dispose()
