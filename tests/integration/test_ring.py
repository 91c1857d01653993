"""Accounts that ring when they run low, and are watched then; the rest of a batch is as ever."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from sidecar import keys
from tests.integration.ledger_world import World
from tests.integration.test_recovery_reopening import available, lose, reopen
from tests.lua.support import Account


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


def watched(world: World) -> list[str]:
    return world.sql("SELECT account FROM watched_accounts ORDER BY account")


def stream(account: Account) -> str:
    return keys.stream(account.shard, account.epoch)


def state(world: World) -> Any:
    """Return how the shard stands that has flushed something."""
    (found,) = world.sql(
        "SELECT flushed_events, cursor, state, cause FROM shards WHERE last_batch > 0"
    )
    return found


def test_an_account_that_runs_low_is_watched(world: World) -> None:
    account = world.funded(low_balance_threshold=400)
    account.debit("d1", 600)
    world.assert_sound()
    assert watched(world) == []
    account.debit("d2", 1)
    account.debit("d3", 1)
    (result,) = world.flush()
    assert (result.events, result.inserted, result.dead, result.marks) == (3, 2, 0, 0)
    assert watched(world) == ["acme"]
    world.assert_sound()


def test_a_hold_that_crosses_the_mark_is_a_batch_with_nothing_but_a_ring(world: World) -> None:
    account = world.funded(low_balance_threshold=400)
    account.hold("h", 700)
    (result,) = world.flush()
    assert (result.events, result.inserted, result.dead, result.is_more) == (1, 0, 0, False)
    assert watched(world) == ["acme"]
    last_id = account.redis.xinfo_stream(stream(account))["last-generated-id"].decode()
    assert state(world) == (1, last_id, "open", None)
    assert account.redis.get(keys.cursor(account.shard)).decode() == f"1 {last_id}"
    account.settle("h", 700)
    world.assert_sound()
    assert state(world)[0] == 2


def test_a_watched_account_is_looked_at_at_once_and_not_later(world: World) -> None:
    account = world.funded(low_balance_threshold=400)
    account.debit("d1", 700)
    world.flush()
    world.sql("UPDATE watched_accounts SET rung_ms = 1, due_ms = 99999999999999 RETURNING 1")
    account.debit("d2", 300)
    world.flush()
    ((rung_ms, due_ms),) = world.sql("SELECT rung_ms, due_ms FROM watched_accounts")
    assert 1 < rung_ms == due_ms < 99_999_999_999_999
    world.sql("UPDATE watched_accounts SET rung_ms = 1, due_ms = 2, is_low_told = true RETURNING 1")
    world.client.xadd(stream(account), {"r": "acme"})
    world.flush()
    ((rung_ms, due_ms, is_told),) = world.sql(
        "SELECT rung_ms, due_ms, is_low_told FROM watched_accounts"
    )
    assert (rung_ms > 2, due_ms, is_told) == (True, 2, True)


def test_rings_of_many_accounts_in_one_batch(world: World) -> None:
    account = world.funded()
    names = [f"a{n}" for n in range(20, 0, -1)]
    for name in names:
        world.put(name)
    for name in (*names, *names, "acme", "unknown"):
        world.client.xadd(stream(account), {"r": name})
    (result,) = world.flush()
    assert (result.events, result.dead) == (42, 0)
    assert watched(world) == sorted(["acme", *names])


@pytest.mark.parametrize("raw", [b"", b"no name", b"\xff\xfe", b"a" * 300])
def test_a_ring_of_no_account_becomes_a_dead_letter(world: World, raw: bytes) -> None:
    account = world.funded()
    world.client.xadd(stream(account), {"r": raw})
    world.client.xadd(stream(account), {"r": "acme"})
    account.debit("d1", 10)
    (result,) = world.flush()
    assert (result.inserted, result.dead) == (1, 1)
    assert world.sql("SELECT reason, raw FROM dead_letters") == [("unreadable", raw)]
    assert watched(world) == ["acme"]


def test_a_ring_beside_other_fields_is_a_dead_letter(world: World) -> None:
    account = world.funded()
    world.client.xadd(stream(account), {"r": "acme", "e": "x"})
    (result,) = world.flush()
    assert result.dead == 1
    assert watched(world) == []


def test_rings_cut_by_batches_change_no_sum(engine: Engine, redis_client: redis.Redis) -> None:
    world = World(engine, redis_client, batch_events=3)
    account = world.funded(amount=100, low_balance_threshold=50)
    for number in range(10):
        account.debit(f"d{number}", 100)
        account.refund(f"r{number}", f"d{number}")
    world.assert_sound()
    assert state(world)[0] == 30
    assert watched(world) == ["acme"]
    assert available(account) == 100


def test_an_account_that_reopens_below_its_mark_rings_at_its_first_charge(world: World) -> None:
    account = world.funded(low_balance_threshold=400)
    account.debit("d1", 900)
    world.flush()
    world.sql("DELETE FROM watched_accounts RETURNING 1")
    lose(world)
    again = reopen(world)
    assert (again.number("mark"), again.rings(), watched(world)) == (400, 0, [])
    again.debit("d2", 1)
    world.assert_sound()
    assert watched(world) == ["acme"]


def test_an_account_that_reopens_with_a_debt_and_enough_does_not_ring(world: World) -> None:
    account = world.funded(low_balance_threshold=400, overdraft_limit=500)
    account.debit("d1", 1_200)
    world.flush()
    world.sql("DELETE FROM watched_accounts RETURNING 1")
    world.grant("acme", 5_000, "g2")
    lose(world)
    again = reopen(world)
    assert (available(again), again.rings(), watched(world)) == (4_800, 0, [])
