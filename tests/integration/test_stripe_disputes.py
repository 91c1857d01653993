"""Disputes take back what the bank took, exactly, and give it back when the bank does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from persistence.money_tables import stripe_fraud_warnings
from persistence.stripe_tables import stripe_events, stripe_payments
from sidecar.billing.stripe_api import StripeApi
from tests.integration import fake_stripe
from tests.integration.fake_stripe import Fake
from tests.integration.stripe_events import event
from tests.integration.stripe_inbox import CREDITS, Inbox


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    with fake_stripe.running() as started:
        yield started


class Bank:
    """A payment of the account `acme`, and what its bank does."""

    def __init__(self, inbox: Inbox, fake: Fake) -> None:
        self.inbox = inbox
        self.fake = fake
        self.seen = len(fake.state.events)
        self.payment = self.pay()

    def pay(self) -> str:
        """Buy credits for 10 dollars and apply that; return the PaymentIntent."""
        payment = self.make_payment()
        self.deliver()
        return payment

    def make_payment(self, credits: int = CREDITS) -> str:
        """Buy credits for 10 dollars; return the PaymentIntent."""
        metadata = {"purpose": "topup", "account": "acme", "credits": str(credits)}
        made = self.fake.client.v1.payment_intents.create(
            {
                "amount": 1000,
                "currency": "usd",
                "confirm": True,
                "payment_method": "pm_card_visa",
                "metadata": metadata,
            }
        )
        return made.id

    def dispute(self, kind: str = "chargeback", **fields: Any) -> str:
        """Open a dispute; return its id."""
        made = self.fake.control("disputes", payment_intent=self.payment, kind=kind, **fields)
        self.deliver()
        return str(made["id"])

    def step(self, dispute: str, step: str) -> None:
        """Let a dispute go on."""
        self.fake.control(f"disputes/{dispute}/{step}")
        self.deliver()

    def refund(self, amount: int) -> str:
        """Refund a part; return the refund's id."""
        made = self.fake.client.v1.refunds.create(
            {"payment_intent": self.payment, "amount": amount}
        )
        self.deliver()
        return made.id

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Let Stripe fail whatever is asked."""
        faults = f"{self.fake.url}/_fake/faults"
        self.fake.http.post(faults, json={"kind": "error_before", "count": 10_000})
        yield
        self.fake.http.post(f"{faults}/clear")

    def news(self) -> list[dict[str, Any]]:
        """Return what Stripe has told since the last time."""
        found = self.fake.events(after=self.seen)
        self.seen += len(found)
        return found

    def deliver(self) -> None:
        """Deliver and apply what Stripe has told since the last time."""
        self.inbox.store(*self.news())
        self.inbox.run()


@pytest.fixture
def bank(engine: Engine, fake: Fake) -> Bank:
    inbox = Inbox(engine, StripeApi(fake_stripe.KEY, fake.url))
    inbox.make_account()
    return Bank(inbox, fake)


def test_a_chargeback_takes_the_credits_and_a_won_one_gives_exactly_them_back(bank: Bank) -> None:
    dispute = bank.dispute()
    assert bank.inbox.ledger() == 0
    bank.step(dispute, "win")
    assert bank.inbox.ledger() == CREDITS
    assert bank.inbox.alerts()[-2:] == ["dispute.opened", "dispute.closed"]


def test_an_inquiry_takes_nothing(bank: Bank) -> None:
    dispute = bank.dispute("inquiry")
    assert bank.inbox.ledger() == CREDITS
    assert bank.inbox.alerts()[-1] == "dispute.opened"
    bank.step(dispute, "close")
    assert bank.inbox.ledger() == CREDITS


def test_an_inquiry_that_becomes_a_chargeback_takes_the_credits_then(bank: Bank) -> None:
    dispute = bank.dispute("inquiry")
    bank.step(dispute, "withdraw")
    assert bank.inbox.ledger() == 0


def test_a_lost_dispute_is_not_final(bank: Bank) -> None:
    dispute = bank.dispute()
    bank.step(dispute, "lose")
    assert bank.inbox.ledger() == 0
    bank.step(dispute, "appeal")
    assert bank.inbox.ledger() == 0
    bank.step(dispute, "win")
    assert bank.inbox.ledger() == CREDITS


def test_created_and_closed_half_a_second_apart_in_the_wrong_order_end_right(bank: Bank) -> None:
    made = bank.fake.control("disputes", payment_intent=bank.payment)
    bank.fake.control(f"disputes/{made['id']}/win")
    for one in reversed(bank.news()):
        bank.inbox.apply(one)
    assert bank.inbox.ledger() == CREDITS


def test_spent_credits_of_a_disputed_payment_suspend_and_winning_lifts_that(bank: Bank) -> None:
    bank.inbox.spend(CREDITS // 2)
    dispute = bank.dispute()
    assert (bank.inbox.ledger(), bank.inbox.status()) == (-CREDITS // 2, "suspended")
    bank.step(dispute, "win")
    assert (bank.inbox.ledger(), bank.inbox.status()) == (CREDITS // 2, "active")
    told = [kind for kind in bank.inbox.alerts() if kind.startswith("account.")]
    assert told == ["account.suspended", "account.resumed"]


def test_a_top_up_above_zero_lifts_the_suspension_too(bank: Bank) -> None:
    bank.inbox.spend(CREDITS // 2)
    bank.dispute()
    bank.pay()
    assert (bank.inbox.ledger(), bank.inbox.status()) == (CREDITS // 2, "active")


def test_refund_and_dispute_together_never_take_more_than_the_payment_gave(bank: Bank) -> None:
    bank.refund(600)
    dispute = bank.dispute(amount=1000)
    assert bank.inbox.ledger() == 0
    (fact,) = bank.inbox.rows(stripe_payments)
    assert (fact["granted"], fact["clawed_back"]) == (CREDITS, CREDITS)
    bank.step(dispute, "win")
    assert bank.inbox.ledger() == CREDITS * 4 // 10


def test_a_dispute_that_comes_before_its_payment_is_kept_and_counts(bank: Bank) -> None:
    payment = bank.make_payment()
    bank.fake.control("disputes", payment_intent=payment)
    of_dispute: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for one in bank.news():
        (of_dispute if "dispute" in one["type"] else others).append(one)
    bank.inbox.apply(*of_dispute)
    assert bank.inbox.ledger() == CREDITS
    bank.inbox.apply(*others)
    assert bank.inbox.ledger() == CREDITS
    facts = {row["payment_intent"]: row for row in bank.inbox.rows(stripe_payments)}
    assert (facts[payment]["granted"], facts[payment]["clawed_back"]) == (CREDITS, CREDITS)


def test_an_event_that_is_older_than_what_was_fetched_asks_no_more(bank: Bank) -> None:
    bank.fake.control("disputes", payment_intent=bank.payment)
    news = bank.news()
    bank.inbox.store(*news)
    bank.inbox.clock.now += 120_000
    bank.inbox.run()
    with bank.away():
        for one in news:
            bank.inbox.replay(one["id"])
        bank.inbox.run()
    assert set(bank.inbox.statuses()) == {"applied", "ignored"}
    assert bank.inbox.ledger() == 0


def test_a_stripe_that_is_away_costs_no_attempt(bank: Bank) -> None:
    bank.fake.control("disputes", payment_intent=bank.payment)
    bank.inbox.store(*bank.news())
    with bank.away():
        for _ in range(30):
            bank.inbox.run()
            bank.inbox.clock.now += 120_000
    waiting = [row for row in bank.inbox.rows(stripe_events) if row["status"] == "failed"]
    assert {row["attempts"] for row in waiting} == {0}
    bank.inbox.clock.now += 120_000
    bank.inbox.run()
    assert bank.inbox.ledger() == 0


def test_a_status_that_is_new_to_us_is_an_alarm_and_no_guess(bank: Bank) -> None:
    dispute = bank.dispute("inquiry")
    bank.fake.state.objects[dispute]["status"] = "arbitration"
    bank.inbox.clock.now += 120_000
    bank.inbox.apply(event("charge.dispute.updated", {"id": dispute, "object": "dispute"}))
    assert bank.inbox.statuses()[-1] == "failed"
    assert "arbitration" in bank.inbox.rows(stripe_events)[-1]["error"]
    assert bank.inbox.ledger() == CREDITS


def test_an_early_fraud_warning_marks_the_payment_and_is_told_once(bank: Bank) -> None:
    bank.fake.control("fraud-warnings", payment_intent=bank.payment)
    news = bank.news()
    bank.inbox.apply(*news)
    for one in news:
        bank.inbox.replay(one["id"])
    bank.inbox.run()
    (warning,) = bank.inbox.rows(stripe_fraud_warnings)
    assert warning["is_actionable"]
    assert bank.inbox.alerts().count("dispute.fraud_warning") == 1
    assert bank.inbox.ledger() == CREDITS
