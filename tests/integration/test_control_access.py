"""What operators say of an account is one fact among others: suspend, resume and close."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, insert, select, update

from persistence.money_tables import stripe_disputes
from persistence.plan_tables import stripe_subscriptions
from persistence.stripe_tables import control_actions, stripe_payments
from sidecar.billing import access


def say(control: httpx.Client, verb: str) -> dict[str, Any]:
    """Do something to the account `acme`; return the answer."""
    response = control.post(f"/v1/accounts/acme/{verb}", json={"reason": f"why {verb}"})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def actions(engine: Engine) -> list[str]:
    """Return what operators did, in its order."""
    with engine.connect() as c:
        query = select(control_actions.c.action).order_by(control_actions.c.id)
        return list(c.scalars(query))


@pytest.fixture
def disputed(control: httpx.Client, engine: Engine) -> httpx.Client:
    """A listener whose account `acme` is below zero because of a dispute."""
    payment = {"payment_intent": "pi_1", "account": "acme", "credits": 5, "is_paid": True}
    dispute = {"dispute": "dp_1", "payment_intent": "pi_1", "amount": 1000, "currency": "usd"}
    instants = {"created_ms": 1, "updated_ms": 1}
    with engine.begin() as c:
        c.execute(insert(stripe_payments).values(payment | instants | {"livemode": False}))
        c.execute(
            insert(stripe_disputes).values(
                dispute
                | instants
                | {"status": "needs_response", "is_withdrawn": True, "fetched_ms": 1}
            )
        )
    taken = {"id": "a1", "amount": -5, "reason": "spent"}
    assert control.post("/v1/accounts/acme/adjustments", json=taken).status_code == 200
    with engine.begin() as c:
        access.refresh(c, "acme", 2)
    return control


def test_a_resumed_account_may_spend_although_a_payment_is_disputed(
    disputed: httpx.Client, engine: Engine
) -> None:
    before = disputed.get("/v1/accounts/acme").json()
    assert (before["status"], before["status_reason"]) == ("suspended", access.DISPUTED)

    after = say(disputed, "resume")

    assert (after["status"], after["status_reason"]) == ("active", "why resume")
    with engine.connect() as c:
        assert c.scalar(select(stripe_disputes.c.is_forgiven)) is True
    say(disputed, "resume")
    assert actions(engine) == ["put_account", "add_adjustment", "resume_account"]


def test_another_dispute_than_the_forgiven_one_suspends_again(
    disputed: httpx.Client, engine: Engine
) -> None:
    say(disputed, "resume")
    with engine.begin() as c:
        c.execute(update(stripe_disputes).values(is_forgiven=False))
        access.refresh(c, "acme", 3)
    assert disputed.get("/v1/accounts/acme").json()["status"] == "suspended"


def test_what_an_operator_says_stands_above_everything_else(disputed: httpx.Client) -> None:
    assert say(disputed, "close")["status"] == "closed"
    suspended = say(disputed, "suspend")
    assert (suspended["status"], suspended["status_reason"]) == ("suspended", "why suspend")


def test_an_account_that_is_resumed_in_grace_is_in_grace(
    control: httpx.Client, engine: Engine
) -> None:
    say(control, "suspend")
    with engine.begin() as c:
        c.execute(
            insert(stripe_subscriptions).values(
                subscription="sub_1",
                account="acme",
                customer="cus_1",
                status="past_due",
                items=[],
                state="grace",
                grace_until_ms=2**40,
                is_ending=False,
                fetched_ms=1,
                created_ms=1,
                updated_ms=1,
            )
        )
    assert say(control, "resume")["status"] == "grace"
    assert say(control, "close")["status"] == "closed"
