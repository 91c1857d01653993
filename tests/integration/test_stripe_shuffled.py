"""Payments, refunds and disputes end the same, whatever the order, the number and the crashes."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from tests.integration import fake_stripe, shuffled
from tests.integration.fake_stripe import Fake
from tests.integration.stripe_inbox import CREDITS

SEEDS = int(os.environ.get("CREDITS_TEST_SEEDS", "200"))
"""Of each scenario; CREDITS_TEST_SEEDS plays more, or fewer."""

CHUNK = 50


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    with fake_stripe.running() as started:
        yield started


def pay(fake: Fake, account: str, credits: int = CREDITS) -> str:
    """Buy credits for 10 dollars; return the PaymentIntent."""
    metadata = {"purpose": "topup", "account": account, "credits": str(credits)}
    made = fake.client.v1.payment_intents.create(
        {
            "amount": 1000,
            "currency": "usd",
            "confirm": True,
            "payment_method": "pm_card_visa",
            "metadata": metadata,
        }
    )
    return made.id


def refund(fake: Fake, payment: str, amount: int) -> str:
    """Refund a part of a payment; return the refund."""
    return fake.client.v1.refunds.create({"payment_intent": payment, "amount": amount}).id


def dispute(fake: Fake, payment: str, kind: str = "chargeback") -> str:
    """Open a dispute of a payment; return it."""
    return str(fake.control("disputes", payment_intent=payment, kind=kind)["id"])


def checkout(fake: Fake, account: str) -> Generator[None, None, int]:
    """Somebody buys in a Checkout session."""
    metadata = {"purpose": "topup", "account": account, "credits": str(CREDITS)}
    line: Any = {
        "quantity": 1,
        "price_data": {
            "currency": "usd",
            "unit_amount": 1000,
            "product_data": {"name": "credits"},
        },
    }
    session = fake.client.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "success_url": "https://example.com/ok",
            "line_items": [line],
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata},
        }
    )
    yield
    fake.control(f"checkout/{session.id}/pay")
    yield
    return CREDITS


def refunds(fake: Fake, account: str) -> Generator[None, None, int]:
    """Two partial refunds, of which one fails in the end."""
    payment = pay(fake, account)
    yield
    first = refund(fake, payment, 100)
    yield
    refund(fake, payment, 300)
    yield
    fake.control(f"refunds/{first}/status", status="failed")
    yield
    return CREDITS * 7 // 10


def appealed(fake: Fake, account: str) -> Generator[None, None, int]:
    """A dispute is lost, appealed, and won."""
    payment = pay(fake, account)
    yield
    opened = dispute(fake, payment)
    yield
    fake.control(f"disputes/{opened}/lose")
    yield
    fake.control(f"disputes/{opened}/appeal")
    yield
    fake.control(f"disputes/{opened}/win")
    yield
    return CREDITS


def inquiry(fake: Fake, account: str) -> Generator[None, None, int]:
    """An inquiry becomes a chargeback, and is lost."""
    payment = pay(fake, account)
    opened = dispute(fake, payment, "inquiry")
    yield
    fake.control(f"disputes/{opened}/withdraw")
    yield
    fake.control(f"disputes/{opened}/lose")
    yield
    return 0


def both(fake: Fake, account: str) -> Generator[None, None, int]:
    """One payment is refunded in part and disputed whole; the dispute is won. Another is kept."""
    payment = pay(fake, account)
    pay(fake, account, 3 * CREDITS)
    yield
    refund(fake, payment, 250)
    opened = dispute(fake, payment)
    yield
    fake.control(f"disputes/{opened}/win")
    yield
    return 3 * CREDITS + CREDITS * 3 // 4


SCENARIOS = (checkout, refunds, appealed, inquiry, both)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: str(one.__name__))
def test_every_order_ends_the_same(
    scenario: shuffled.Scenario,
    first: int,
    engine: Engine,
    redis_client: redis.Redis,
    fake: Fake,
) -> None:
    seeds = range(first, min(first + CHUNK, SEEDS))
    assert shuffled.play(scenario, seeds, engine, redis_client, fake) > 0
