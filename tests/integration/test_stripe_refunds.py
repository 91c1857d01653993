"""Refunds take credits back in proportion, once, in any order; failed ones give them back."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from sqlalchemy import Engine

from persistence import tables
from persistence.money_tables import stripe_refunds
from persistence.stripe_tables import stripe_events, stripe_payments
from tests.integration.stripe_events import event, payment_succeeded, refund_of
from tests.integration.stripe_inbox import CREDITS, Inbox


@pytest.fixture
def inbox(engine: Engine) -> Inbox:
    made = Inbox(engine)
    made.make_account()
    return made


def test_a_refund_takes_back_its_share_of_the_credits(inbox: Inbox) -> None:
    inbox.apply(payment_succeeded(), refund_of(amount=250))
    assert inbox.ledger() == CREDITS * 3 // 4
    (fact,) = inbox.rows(stripe_payments)
    assert (fact["granted"], fact["clawed_back"]) == (CREDITS, CREDITS // 4)


def test_the_share_is_rounded_up_once_over_all_refunds(inbox: Inbox) -> None:
    inbox.apply(payment_succeeded(credits="100"))
    inbox.apply(*(refund_of(id=f"re_{n}", amount=333) for n in range(3)))
    # 999 of 1000 went back: one credit in a hundred is left, not three times a rounded share.
    assert inbox.ledger() == 0
    (fact,) = inbox.rows(stripe_payments)
    assert fact["clawed_back"] == 100


@pytest.mark.parametrize("status", ["pending", "requires_action", "succeeded"])
def test_a_refund_counts_from_the_moment_it_is_made(inbox: Inbox, status: str) -> None:
    inbox.apply(payment_succeeded(), refund_of(status=status))
    assert inbox.ledger() == CREDITS * 3 // 4


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_refund_that_failed_is_given_back(inbox: Inbox, status: str) -> None:
    inbox.apply(payment_succeeded(), refund_of(), refund_of(status=status, kind="refund.failed"))
    assert inbox.ledger() == CREDITS


def test_failed_outranks_succeeded_however_late_that_comes(inbox: Inbox) -> None:
    inbox.apply(payment_succeeded(), refund_of(status="failed"), refund_of(status="succeeded"))
    inbox.apply(refund_of(status="pending", kind="refund.created"))
    assert inbox.ledger() == CREDITS
    (fact,) = inbox.rows(stripe_refunds)
    assert fact["status"] == "failed"


def test_a_refund_that_comes_before_its_payment_is_kept_and_counts(inbox: Inbox) -> None:
    inbox.apply(refund_of())
    assert inbox.statuses() == ["applied"]
    assert inbox.ledger() == 0
    inbox.apply(payment_succeeded())
    assert inbox.ledger() == CREDITS * 3 // 4


def test_refunds_beyond_the_payment_take_no_more_than_it_gave(inbox: Inbox) -> None:
    inbox.apply(payment_succeeded(), refund_of(amount=900), refund_of(id="re_2", amount=900))
    assert inbox.ledger() == 0


def test_the_cumulative_amount_of_a_charge_is_never_counted(inbox: Inbox) -> None:
    cumulative = {"id": "ch_of_pi_1", "object": "charge", "payment_intent": "pi_1"}
    inbox.apply(
        payment_succeeded(),
        refund_of(id="re_1", amount=100),
        event("charge.refunded", cumulative | {"amount_refunded": 100}),
        refund_of(id="re_2", amount=100),
        event("charge.refunded", cumulative | {"amount_refunded": 200}),
    )
    assert inbox.ledger() == CREDITS * 8 // 10


def test_a_refund_of_spent_credits_goes_below_zero_and_a_top_up_pays_it(inbox: Inbox) -> None:
    inbox.apply(payment_succeeded())
    inbox.spend(CREDITS)
    inbox.apply(refund_of(amount=1000))
    assert inbox.ledger() == -CREDITS
    inbox.apply(payment_succeeded("pi_2", credits=str(3 * CREDITS)))
    assert inbox.ledger() == 2 * CREDITS


def test_a_refund_of_another_currency_is_not_guessed(inbox: Inbox) -> None:
    inbox.apply(payment_succeeded(), refund_of(currency="jpy"))
    assert inbox.ledger() == CREDITS
    assert inbox.statuses() == ["applied", "failed"]


def test_an_unknown_status_is_an_alarm_and_no_guess(inbox: Inbox) -> None:
    inbox.apply(payment_succeeded(), refund_of(status="reversed"))
    assert inbox.ledger() == CREDITS
    assert "reversed" in inbox.rows(stripe_events)[1]["error"]


def test_a_refund_of_a_payment_that_is_not_ours_is_kept_and_moves_nothing(inbox: Inbox) -> None:
    inbox.apply(payment_succeeded(), refund_of("pi_of_a_subscription", id="re_9"))
    assert inbox.ledger() == CREDITS
    assert inbox.statuses() == ["applied", "applied"]


_LIFE: tuple[Any, ...] = (
    payment_succeeded(),
    refund_of(id="re_1", amount=100, status="pending", kind="refund.created"),
    refund_of(id="re_1", amount=100, status="succeeded"),
    refund_of(id="re_2", amount=300, status="succeeded"),
    refund_of(id="re_2", amount=300, status="failed", kind="refund.failed"),
)


@pytest.mark.parametrize("chunk", range(4))
def test_any_order_of_a_payment_and_its_refunds_ends_the_same(engine: Engine, chunk: int) -> None:
    orders = list(itertools.permutations(range(len(_LIFE))))[chunk::4]
    inbox = Inbox(engine)
    for number, order in enumerate(orders):
        account, tag = f"a{number}", f"_{number}"
        inbox.make_account(account)
        dice = random.Random(number)
        for index in order:
            inbox.store(_renamed(_LIFE[index], account, tag, dice))
            if dice.random() < 0.5:
                inbox.run()
        inbox.run()
    balances = {inbox.ledger(f"a{number}") for number in range(len(orders))}
    assert balances == {CREDITS * 9 // 10}
    assert set(inbox.statuses()) == {"applied"}


def _renamed(one: dict[str, Any], account: str, tag: str, dice: random.Random) -> dict[str, Any]:
    """Return an event of another account: all its objects have other ids."""
    subject = dict(one["data"]["object"])
    for name in ("id", "payment_intent", "charge"):
        if subject.get(name):
            subject[name] += tag
    if "metadata" in subject:
        subject["metadata"] = subject["metadata"] | {"account": account}
    return event(one["type"], subject, id=f"evt{tag}_{dice.getrandbits(64)}")


def test_what_was_given_back_names_its_payment(inbox: Inbox) -> None:
    inbox.apply(payment_succeeded(), refund_of(), refund_of(status="failed"))
    grants = [(g["id"], g["reference"], g["amount"]) for g in inbox.rows(tables.grants)]
    assert grants == [("pi_1", "pi_1", CREDITS), ("pi_1:3", "pi_1", CREDITS // 4)]
