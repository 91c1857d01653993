"""What the gate does of it: Redis alone decides, by what Stripe's facts have brought there."""

from __future__ import annotations

import pytest
import redis
from sqlalchemy import Engine

from persistence.money_tables import stripe_disputes
from persistence.stripe_tables import stripe_payments
from sidecar.billing import access
from tests.integration.ledger_world import World
from tests.integration.stripe_events import payment_succeeded, refund_of
from tests.integration.stripe_inbox import CREDITS, Inbox
from tests.lua.support import Account


class Shop:
    """An inbox, and a Redis that its refills reach."""

    def __init__(self, engine: Engine, client: redis.Redis) -> None:
        self.world = World(engine, client)
        self.world.opener.open_shards()
        self.inbox = Inbox(engine)
        self.inbox.make_account()
        self.inbox.apply(payment_succeeded())

    def at_the_gate(self) -> Account:
        """Bring all refills to Redis and return the account there."""
        self.world.sender.run_once()
        return self.world.account()

    def withdraw(self, *, is_back: bool = False) -> None:
        """Let the bank take the payment, or give it back, and derive what that means."""
        row = {
            "dispute": "dp_1",
            "payment_intent": "pi_1",
            "amount": 1000,
            "currency": "usd",
            "status": "won" if is_back else "needs_response",
            "is_withdrawn": not is_back,
            "created_ms": 1,
            "fetched_ms": 1,
            "updated_ms": 1,
        }
        with self.world.engine.begin() as c:
            c.execute(stripe_disputes.delete())
            c.execute(stripe_disputes.insert().values(row))
        payment = self.inbox.rows(stripe_payments)[0]["payment_intent"]
        self.inbox.apply(refund_of(payment, status="failed", id="re_nothing"))


@pytest.fixture
def shop(engine: Engine, redis_client: redis.Redis) -> Shop:
    return Shop(engine, redis_client)


def test_below_zero_the_gate_refuses_and_shows_it_and_a_top_up_pays_the_debt_first(
    shop: Shop,
) -> None:
    account = shop.at_the_gate()
    account.debit("call-1", CREDITS)
    shop.inbox.apply(refund_of(amount=1000))
    account = shop.at_the_gate()
    assert account.number("available") == -CREDITS
    assert account.hold("call-2", 1)[0] == "insufficient"
    assert shop.inbox.status() == "active"

    shop.inbox.apply(payment_succeeded("pi_2", credits=str(3 * CREDITS)))
    account = shop.at_the_gate()
    assert account.number("available") == 2 * CREDITS
    assert account.hold("call-2", 1)[0] == "held"
    shop.world.assert_sound()


def test_a_disputed_account_below_zero_is_refused_at_the_gate_and_its_holds_end_all_the_same(
    shop: Shop,
) -> None:
    account = shop.at_the_gate()
    account.hold("running", CREDITS // 2)
    account.debit("call-1", CREDITS // 2)
    shop.world.flush()
    shop.withdraw()
    assert shop.inbox.status() == "suspended"

    account = shop.at_the_gate()
    refused = account.hold("call-2", 1)
    assert (refused[0], refused[1]) == ("suspended", access.DISPUTED)
    # What runs was granted before: it is settled, whatever the account may do now.
    assert account.settle("running", CREDITS // 4)[0] == "settled"

    shop.withdraw(is_back=True)
    account = shop.at_the_gate()
    assert account.hold("call-3", 1)[0] == "held"
    shop.world.assert_sound()
