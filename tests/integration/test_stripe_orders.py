"""A payment of ours is worth what its order says, and nothing else that Stripe tells."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from persistence.money_tables import orders, stripe_charges
from persistence.stripe_tables import stripe_events, stripe_payments
from sidecar.billing.inbox import InboxJob
from sidecar.metrics import WorkerMetrics
from tests.integration.stripe_events import event, order_paid, payment_succeeded, session_completed
from tests.integration.stripe_inbox import CREDITS, Inbox


@pytest.fixture
def inbox(engine: Engine) -> Inbox:
    made = Inbox(engine)
    made.make_account()
    make_order(made)
    return made


def make_order(inbox: Inbox, id: str = "ord_1", **fields: Any) -> None:
    """Make an order of 10 credits for 10 dollars."""
    row = {
        "id": id,
        "account": "acme",
        "purpose": "checkout",
        "offer": "ten",
        "credits": CREDITS,
        "price": 1000,
        "currency": "usd",
        "created_ms": inbox.clock(),
    }
    with inbox.engine.begin() as c:
        c.execute(orders.insert().values(row | fields))


def session_of(order: str = "ord_1", **fields: Any) -> dict[str, Any]:
    """Return the completed Checkout session of an order."""
    metadata = {"purpose": "topup", "order_id": order, "account": "acme"}
    return session_completed(metadata=metadata, **fields)


def test_an_order_gives_its_credits_once_whatever_tells_of_its_payment(inbox: Inbox) -> None:
    inbox.apply(session_of(), order_paid("ord_1"), session_of(), order_paid("ord_1"))
    assert inbox.ledger() == CREDITS
    (fact,) = inbox.rows(stripe_payments)
    assert (fact["order_id"], fact["charge"], fact["customer"]) == ("ord_1", "ch_of_pi_1", "cus_1")
    assert inbox.alerts() == ["top_up.succeeded"]


def test_tax_is_paid_and_never_credited(inbox: Inbox) -> None:
    taxed: dict[str, Any] = {"amount_total": 1190, "total_details": {"amount_tax": 190}}
    inbox.apply(session_of(**taxed), order_paid("ord_1", 1190))
    assert inbox.ledger() == CREDITS
    (fact,) = inbox.rows(stripe_payments)
    assert (fact["paid_minor_units"], fact["amount"]) == (1190, 1190)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (order_paid("ord_1", 999), "pays 999"),
        (order_paid("ord_1", currency="eur"), "in eur"),
        (order_paid("ord_2"), "no order ord_2"),
        (order_paid("ord_of_another"), "no order"),
        (session_of(amount_total=900), "pays 900"),
        (session_of(amount_total=1190), "pays 1190"),
        (session_of(currency="jpy"), "in jpy"),
    ],
    ids=["too little", "currency", "unknown", "another", "discount", "too much", "units"],
)
def test_a_payment_that_does_not_fit_its_order_fails(
    inbox: Inbox, wrong: dict[str, Any], says: str
) -> None:
    inbox.apply(wrong)
    assert inbox.ledger() == 0
    (row,) = inbox.rows(stripe_events)
    assert row["status"] == "failed"
    assert says in row["error"]


def test_an_order_of_another_account_is_no_order(inbox: Inbox) -> None:
    inbox.make_account("other")
    metadata = {"purpose": "topup", "order_id": "ord_1", "account": "other"}
    inbox.apply(order_paid("ord_1", metadata=metadata))
    assert (inbox.ledger(), inbox.ledger("other")) == (0, 0)
    assert inbox.statuses() == ["failed"]


def test_an_auto_top_up_pays_its_price_exactly(inbox: Inbox) -> None:
    make_order(inbox, "ord_2", purpose="auto_top_up")
    inbox.apply(order_paid("ord_2", 1001, "pi_2"))
    assert inbox.statuses() == ["failed"]
    inbox.apply(order_paid("ord_2", 1000, "pi_3"))
    assert inbox.ledger() == CREDITS


def test_an_order_that_was_paid_twice_is_an_alarm_and_gives_once(inbox: Inbox) -> None:
    inbox.apply(order_paid("ord_1"), order_paid("ord_1", payment="pi_2"))
    assert inbox.ledger() == CREDITS
    assert inbox.statuses() == ["applied", "failed"]


def test_payments_without_an_order_can_be_switched_off(inbox: Inbox) -> None:
    strict = InboxJob(
        inbox.engine,
        WorkerMetrics(CollectorRegistry()),
        takes_metadata_top_ups=False,
        now_ms=inbox.clock,
    )
    inbox.store(payment_succeeded("pi_9"), order_paid("ord_1"))
    strict.run_once()
    assert inbox.statuses() == ["failed", "applied"]
    assert inbox.ledger() == CREDITS


@pytest.mark.parametrize("is_first", [True, False])
def test_the_real_fee_is_kept_whether_it_comes_before_the_payment_or_after(
    inbox: Inbox, is_first: bool
) -> None:
    told = event(
        "charge.updated",
        {
            "id": "ch_of_pi_1",
            "object": "charge",
            "payment_intent": "pi_1",
            "metadata": {"purpose": "topup"},
            "balance_transaction": {"id": "txn_1", "fee": 59, "currency": "usd"},
        },
    )
    both = [told, order_paid("ord_1")]
    inbox.apply(*(both if is_first else reversed(both)))
    (fact,) = inbox.rows(stripe_payments)
    assert (fact["fee"], fact["fee_currency"]) == (59, "usd")
    assert len(inbox.rows(stripe_charges)) == 1


def test_a_charge_without_its_balance_transaction_says_nothing_yet(inbox: Inbox) -> None:
    charge = {"id": "ch_1", "object": "charge", "metadata": {"purpose": "topup"}}
    inbox.apply(event("charge.updated", charge | {"balance_transaction": None}))
    assert inbox.statuses() == ["ignored"]
