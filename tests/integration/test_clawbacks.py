"""Claw-backs: what a payment gave goes again, from its own grant first."""

from __future__ import annotations

import pytest
import redis
from sqlalchemy import Engine

from persistence.errors import AccountUnknown, TotalExceeded
from persistence.grants import claw_back
from sidecar.domain import MAX_AMOUNT
from sidecar.errors import Refusal
from tests.integration.ledger_world import World
from tests.integration.test_recovery_reopening import available, lose, reopen
from tests.lua.support import Account

PAYMENT = "pi_1"


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


@pytest.fixture
def account(world: World) -> Account:
    """An account with a grant of 1,000, which burns first, and a payment of 100."""
    made = world.funded()
    world.grant("acme", 100, PAYMENT, reference=PAYMENT)
    world.sql(
        "INSERT INTO stripe_payments (payment_intent, account, credits, is_paid, livemode,"
        " granted, created_ms, updated_ms) VALUES (:p, 'acme', 100, true, false, 100, 1, 1)"
        " RETURNING 1",
        p=PAYMENT,
    )
    world.sender.run_once()
    return made


def take(world: World, amount: int, grant_id: str | None = PAYMENT) -> int:
    """Claw back, as the payment's row says afterwards."""
    world.sql("UPDATE stripe_payments SET clawed_back = clawed_back + :a RETURNING 1", a=amount)
    return world.run(
        lambda c: claw_back(c, "acme", amount, grant_id=grant_id, id="re_1", reference=PAYMENT)
    )


def give_back(world: World, amount: int, id: str = "pi_1:3") -> None:
    world.sql("UPDATE stripe_payments SET clawed_back = clawed_back - :a RETURNING 1", a=amount)
    world.grant("acme", amount, id, reference=PAYMENT)


def test_it_takes_from_the_grant_of_the_payment(world: World, account: Account) -> None:
    transfer = take(world, 60)
    assert world.sql("SELECT kind, reference, amount FROM transfers WHERE id = :t", t=transfer) == [
        ("clawback", PAYMENT, 60)
    ]
    world.sender.run_once()
    world.assert_sound()
    assert (available(account), world.counters(PAYMENT)) == (1_040, (0, 0, 60))
    assert world.balance("source:paid") == -1_040


def test_what_the_grant_lacks_goes_in_burn_order(world: World, account: Account) -> None:
    account.debit("d", 1_030)
    take(world, 100)
    world.sender.run_once()
    world.assert_sound()
    assert available(account) == -30
    assert world.counters(PAYMENT) == (30, 0, 70)


def test_without_its_grant_it_takes_in_burn_order(world: World, account: Account) -> None:
    for grant_id in (None, "never"):
        take(world, 10, grant_id)
    world.sender.run_once()
    world.assert_sound()
    assert world.counters() == (0, 0, 20)


def test_what_is_given_back_is_a_grant_again(world: World, account: Account) -> None:
    take(world, 60)
    give_back(world, 60)
    take(world, 20)
    world.sender.run_once()
    world.assert_sound()
    assert available(account) == 1_080


def test_more_than_the_facts_say_is_found(world: World, account: Account) -> None:
    world.run(lambda c: claw_back(c, "acme", 1, grant_id=PAYMENT, id="x", reference=PAYMENT))
    world.sender.run_once()
    world.flush()
    assert world.wrong_lines() == {"top_ups_are_payments": 1}


def test_what_belongs_to_no_payment_is_found(world: World, account: Account) -> None:
    world.run(lambda c: claw_back(c, "acme", 1, grant_id=None, id="x", reference="pi_9"))
    world.sender.run_once()
    world.flush()
    assert world.wrong_lines() == {"top_ups_are_payments": 1}


def test_twice_is_twice(world: World, account: Account) -> None:
    for _ in range(2):
        take(world, 10)
    world.sender.run_once()
    world.assert_sound()
    assert available(account) == 1_080


def test_it_never_passes_the_smallest_number(world: World, account: Account) -> None:
    def take_all() -> None:
        world.run(
            lambda c: claw_back(c, "acme", MAX_AMOUNT, grant_id=None, id="x", reference=PAYMENT)
        )

    take_all()
    with pytest.raises(TotalExceeded):
        take_all()


@pytest.mark.parametrize("amount", [0, -1, MAX_AMOUNT + 1])
def test_an_amount_out_of_range_is_refused(world: World, account: Account, amount: int) -> None:
    with pytest.raises(Refusal):
        world.run(lambda c: claw_back(c, "acme", amount, grant_id=None, id="x", reference=PAYMENT))


def test_an_account_that_does_not_exist_is_told(world: World) -> None:
    with pytest.raises(AccountUnknown):
        world.run(lambda c: claw_back(c, "acme", 1, grant_id=None, id="x", reference=PAYMENT))


@pytest.mark.parametrize("is_sent", [False, True])
@pytest.mark.parametrize("amount", [40, 100])
def test_after_a_loss_it_is_taken_all_the_same(
    world: World, account: Account, amount: int, is_sent: bool
) -> None:
    account.debit("d", 1_050)
    world.flush()
    take(world, amount)
    if is_sent:
        world.sender.run_once()
    lose(world)
    assert available(reopen(world)) == 50 - amount
