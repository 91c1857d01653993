"""Attacks on the money side: each was a way to lose, invent or hold up somebody's credits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from persistence import accounts
from sidecar.billing import operators
from sidecar.billing.access_job import AccessJob
from sidecar.billing.stripe_api import StripeApi
from sidecar.domain import AccountStatus
from tests.integration import fake_stripe
from tests.integration.fake_stripe import Fake
from tests.integration.stripe_events import event, refund_of, session_completed
from tests.integration.stripe_inbox import CREDITS, Inbox
from tests.integration.test_stripe_disputes import Bank


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
