"""Reopening: after a loss an account has exactly what the ledger says, however it got there."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from sqlalchemy import Engine

from persistence.accounts import set_status
from persistence.grants import add_adjustment
from sidecar import keys
from sidecar.domain import AccountStatus, Category
from tests.integration.ledger_world import World, metric
from tests.integration.simulated_sidecar import SimulatedSidecar
from tests.lua.support import Account


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


def lose(world: World) -> None:
    """Empty Redis and give its shards up; nobody has a journal."""
    world.client.flushall()
    world.opener.run_once()


def reopen(world: World, account: str = "acme") -> Account:
    """Reopen an account, prove that all is well, and return it."""
    assert world.reopener.reopen([account]) == [account]
    world.sender.send([account])
    made = world.account(account)
    made.balance()
    world.assert_sound()
    assert world.balance(f"available:{account}") == 0
    return made


def available(account: Account) -> int:
    return int(account.balance(0)[2])


def test_grants_come_back_with_what_remains_of_each_and_in_their_order(world: World) -> None:
    account = world.funded(amount=100)
    world.grant("acme", 50, "promo", category=Category.PROMO, priority=10)
    world.grant("acme", 200, "later", expires_at_ms=int(time.time() * 1000) + 3_600_000)
    world.sender.run_once()
    account.debit("d1", 70)  # the promotion, and 20 of what expires
    world.flush()
    lose(world)
    again = reopen(world)
    assert available(again) == 280
    assert sorted(again.left().values()) == [0, 100, 180] or sorted(again.left().values()) == [
        100,
        180,
    ]
    again.debit("d2", 200)
    world.assert_sound()
    assert (world.counters("later"), world.counters("g1")) == ((200, 0, 0), (20, 0, 0))


def test_a_grant_that_has_expired_meanwhile_expires_again(world: World) -> None:
    account = world.funded(amount=100)
    world.grant("acme", 50, "soon", expires_at_ms=int(time.time() * 1000) + 400)
    world.sender.run_once()
    account.debit("d1", 10)
    world.flush()
    lose(world)
    world.sql("SELECT pg_sleep(0.5)")
    assert available(reopen(world)) == 100
    assert world.counters("soon") == (10, 40, 0)


def test_many_expired_grants_are_no_obstacle(world: World) -> None:
    world.funded(amount=100)
    soon = int(time.time() * 1000) + 1_000
    for number in range(40):
        world.grant("acme", 1, f"n{number}", expires_at_ms=soon)
    lose(world)
    world.sql("SELECT pg_sleep(1.1)")
    assert available(reopen(world)) == 100


def test_what_an_overdraft_was_charged_is_still_owed(world: World) -> None:
    account = world.funded(amount=100, overdraft_limit=50)
    account.debit("d1", 140)
    world.flush()
    lose(world)
    again = reopen(world)
    assert again.balance()[2:5] == [-40, 0, 50]
    world.grant("acme", 30, "g2")
    world.sender.run_once()
    assert available(again) == -10
    world.assert_sound()


def test_a_debt_whose_payment_was_never_acknowledged_is_paid_again(world: World) -> None:
    account = world.funded(amount=100, overdraft_limit=50)
    account.debit("d1", 140)
    world.flush()
    world.grant("acme", 100, "g2")
    world.sender.run_once()  # and pays 40 of it: only Redis knew
    lose(world)
    assert available(reopen(world)) == 60
    assert world.counters("g2") == (40, 0, 0)


def test_what_was_given_back_beyond_all_grants_is_there(world: World) -> None:
    account = world.funded(amount=100, overdraft_limit=50)
    account.debit("d1", 140)
    world.grant("acme", 100, "g2")
    world.sender.run_once()
    account.refund("r1", "d1")
    world.flush()
    before = available(account)
    lose(world)
    assert available(reopen(world)) == before == 200


def test_a_grant_that_never_reached_the_lost_redis_is_there(world: World) -> None:
    world.funded(amount=100)
    world.grant("acme", 50, "g2")
    lose(world)
    assert available(reopen(world)) == 150
    assert world.sql("SELECT kind FROM refills WHERE voided_ms IS NOT NULL") == ["grant"]


def test_an_adjustment_that_never_reached_the_lost_redis_is_taken(world: World) -> None:
    account = world.funded(amount=100)
    account.debit("d1", 10)
    world.flush()
    world.run(lambda c: add_adjustment(c, "acme", "a1", -30, "mistake"))
    lose(world)
    assert available(reopen(world)) == 60
    assert world.balance("source:adjustment") == 30


def test_an_adjustment_that_redis_carried_out_unheard_is_taken_again(world: World) -> None:
    world.funded(amount=100)
    world.run(lambda c: add_adjustment(c, "acme", "a1", -30, "mistake"))
    world.sender.run_once()
    lose(world)
    assert available(reopen(world)) == 70


def test_an_adjustment_beyond_everything_leaves_a_debt(world: World) -> None:
    world.funded(amount=100)
    world.run(lambda c: add_adjustment(c, "acme", "a1", -130, "mistake"))
    lose(world)
    assert available(reopen(world)) == -30


def test_a_status_that_never_reached_the_lost_redis_holds(world: World) -> None:
    world.funded(amount=100)
    world.run(lambda c: set_status(c, "acme", AccountStatus.SUSPENDED, "unpaid"))
    lose(world)
    again = reopen(world)
    assert again.balance()[1:3] == ["suspended", 100]
    assert again.debit("d1", 1) == ["suspended", "unpaid"]


def test_what_was_to_be_given_back_to_the_lost_redis_is_there(world: World) -> None:
    account = world.funded(amount=100)
    digits = f"{int(time.time() * 1000):012x}"
    id = f"{digits[:8]}-{digits[8:]}-7000-8000-000000000001"
    account.debit(id, 30)
    account.redis.delete(account.keys[6], account.keys[7])
    account.debit(id, 30)
    world.flush()
    lose(world)
    assert available(reopen(world)) == 70


def test_an_account_without_any_credits_comes_back(world: World) -> None:
    world.opener.open_shards()
    world.put("acme")
    world.sender.run_once()
    lose(world)
    again = reopen(world)
    assert again.balance()[:4] == ["ok", "active", 0, 0]
    assert again.debit("d1", 1)[0] == "insufficient"


def test_what_the_lost_redis_held_is_free_again(world: World) -> None:
    account = world.funded(amount=100)
    account.hold("h1", 60)
    lose(world)
    assert reopen(world).balance()[2:4] == [100, 0]


def test_the_same_redis_forgets_all_that_it_had_of_the_account(world: World) -> None:
    account = world.funded(amount=100)
    account.hold("h1", 60, ttl_ms=1)
    world.client.hset(keys.fence(account.shard), "epoch", 0)
    world.opener.run_once()
    # Of the older epoch, and due: the sweep does not wait for whoever asks for it.
    assert world.client.zcard(keys.sweep(account.shard)) == 1
    world.sweeper.run_once()
    assert world.client.zcard(keys.sweep(account.shard)) == 0
    again = reopen(world)
    assert again.balance()[2:4] == [100, 0]
    assert again.holds() == {}


def test_nothing_is_reopened_before_every_journal_is_in(world: World) -> None:
    world.funded(amount=100)
    sidecar = SimulatedSidecar(world).register()
    world.client.flushall()
    world.opener.run_once()
    assert world.reopener.reopen(["acme"]) == []
    assert world.reopener.run_once() == 0
    assert metric(world.metrics.superseded_generations) == 1
    sidecar.hand_in()
    world.flush()
    reopen(world)


def test_what_is_present_or_unknown_is_not_reopened(world: World) -> None:
    world.funded(amount=100)
    assert world.reopener.reopen(["acme", "nobody"]) == []
    assert world.generation().gen == 1


def test_every_account_is_reopened_bit_by_bit_although_nobody_asks(world: World) -> None:
    names = [f"acct-{number}" for number in range(450)]
    world.opener.open_shards()
    for name in names:
        world.put(name)
        world.grant(name, 10)
    world.sender.run_once()
    lose(world)
    assert [world.reopener.run_once() for _ in range(4)] == [200, 200, 50, 0]
    assert metric(world.metrics.superseded_generations) == 0
    assert metric(world.metrics.reopened_accounts) == 450
    world.sender.run_once()
    world.assert_sound()
    assert {available(world.account(name)) for name in names[::50]} == {10}


def test_an_account_that_someone_changes_now_is_left_for_later(world: World) -> None:
    world.funded("acme", 100)
    world.funded("other", 100)
    lose(world)
    with world.engine.begin() as connection:
        set_status(connection, "acme", AccountStatus.SUSPENDED, None)
        assert world.reopener.run_once() == 1
    assert world.generation("other").gen == 2
    assert world.reopener.run_once() == 1
    assert world.generation("acme").gen == 2


def test_a_loss_after_each_reopening_loses_nothing(world: World) -> None:
    account = world.funded(amount=1_000)
    for number in range(1, 5):
        account.debit(f"d{number}", 100)
        world.flush()
        lose(world)
        if number != 2:  # that time it is lost again before anybody asked for it
            account = reopen(world)
        else:
            lose(world)
            account = reopen(world)
    assert available(account) == 600
    assert world.counters() == (400, 0, 0)
    assert world.sql("SELECT state FROM generations ORDER BY gen") == ["closed"] * 4 + ["open"]


def test_workers_that_reopen_at_once_reopen_each_account_once(world: World) -> None:
    names = [f"acct-{number}" for number in range(30)]
    for name in names:
        world.funded(name, 10)
    lose(world)
    others = [World(world.engine, world.client) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda other: other.reopener.reopen(names), others))
    assert sorted(name for part in done for name in part) == sorted(names)
    world.sender.run_once()
    world.assert_sound()
