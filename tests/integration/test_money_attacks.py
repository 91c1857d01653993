"""Attacks on the money side: each was a way to lose, invent or hold up somebody's credits."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tests.integration.stripe_events import event, refund_of, session_completed
from tests.integration.stripe_inbox import CREDITS, Inbox


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
