"""The sweep: what expires while nobody touches its account."""

from __future__ import annotations

import time

import pytest
import redis
from sqlalchemy import Engine

from sidecar import keys
from tests.integration.ledger_world import World


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


def sweep_until(world: World, visited: int) -> None:
    deadline = time.monotonic() + 10
    while visited > 0 and time.monotonic() < deadline:
        visited -= world.sweeper.run_once()
    assert visited == 0


def test_holds_that_nobody_ends_are_given_back(world: World) -> None:
    account = world.funded(amount=100)
    for number in range(40):
        account.hold(f"h{number}", 2, ttl_ms=1)
    sweep_until(world, 1)
    held = world.client.hmget(account.keys[0], "available", "held")
    assert held == [b"100", b"0"]
    assert world.sweeper.run_once() == 0
    world.assert_sound()


def test_a_grant_that_expires_reaches_the_ledger(world: World) -> None:
    account = world.funded(amount=100)
    now = int(time.time() * 1000)
    world.grant("acme", 50, "soon", expires_at_ms=now + 150)
    world.sender.run_once()
    assert account.balance()[2] == 150
    sweep_until(world, 1)
    world.assert_sound()
    assert world.counters("soon") == (0, 50, 0)


def test_what_is_not_due_is_left_alone(world: World) -> None:
    account = world.funded(amount=100)
    account.hold("h1", 10)
    assert world.sweeper.run_once() == 0
    assert account.balance()[3] == 10


def test_an_account_that_is_gone_is_taken_from_the_sweep(world: World) -> None:
    account = world.funded(amount=100)
    world.client.zadd(keys.sweep(account.shard), {"gone": 1})
    world.sweeper.run_once()
    assert world.client.zscore(keys.sweep(account.shard), "gone") is None
    assert world.sweeper.run_once() == 0


def test_an_account_that_cannot_be_swept_is_no_work_done_and_is_logged_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    account = world.funded(amount=100)
    account.hold("h1", 10, ttl_ms=1)
    world.client.hset(account.keys[0], "epoch", 9)
    world.client.zadd(keys.sweep(account.shard), {"acme": 1})
    # The job waits after a round that did nothing; it must not spin on what fails.
    assert [world.sweeper.run_once() for _ in range(3)] == [0, 0, 0]
    assert len([record for record in caplog.records if "not swept" in record.message]) == 1
