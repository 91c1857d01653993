"""The watch: who is told that an account runs low, when again, and what it starts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, event, select, text

from persistence import accounts
from persistence.top_up_tables import alerts
from persistence.watching import watch
from sidecar.billing.watch import SWEEP_EVERY_MS, Watch
from sidecar.domain import AccountStatus
from tests.integration.fake_stripe import Fake, running
from tests.integration.top_up_world import TopUpWorld

LOW = 1_000


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    with running() as started:
        yield started


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis, fake: Fake) -> TopUpWorld:
    made = TopUpWorld(engine, redis_client, fake)
    made.world.funded("acme", 10_000, low_balance_threshold=LOW, overdraft_limit=10_000)
    made.watch.run_once()  # the first sweep
    return made


def _ring(world: TopUpWorld, account: str = "acme") -> None:
    with world.engine.begin() as c:
        watch(c, [account], world.clock())


def _look(world: TopUpWorld, available: int, *, after_ms: int = 1_000) -> None:
    """Let the account have that much available, ring, and look at it."""
    change = available - world.available()
    if change > 0:
        world.give(change)
    elif change < 0:
        world.use(-change)
    world.clock.now += after_ms
    _ring(world)
    world.watch.run_once()


def _told(world: TopUpWorld) -> list[str]:
    return [kind.removeprefix("balance.") for kind, _ in world.alerts()]


def _data(world: TopUpWorld) -> list[dict[str, Any]]:
    with world.engine.connect() as c:
        return list(c.scalars(select(alerts.c.data).order_by(alerts.c.no)))


def _watched(world: TopUpWorld) -> list[Any]:
    return world.world.sql("SELECT account FROM watched_accounts ORDER BY account")


def test_low_is_told_with_what_is_left_and_the_threshold(world: TopUpWorld) -> None:
    world.give(1)
    _look(world, LOW)
    assert (_told(world), _watched(world)) == ([], [])
    _look(world, LOW - 1)
    assert _told(world) == ["low"]
    (data,) = _data(world)
    assert (data["available"], data["threshold"]) == (LOW - 1, LOW)
    assert _watched(world) == ["acme"]


def test_a_balance_that_swings_around_the_threshold_is_told_once(world: TopUpWorld) -> None:
    for available in (999, 1_050, 999, 1_099, 1, 1_000):
        _look(world, available)
    assert _told(world) == ["low"]
    _look(world, 1_100)
    assert _watched(world) == []
    _look(world, 999)
    assert _told(world) == ["low", "low"]


def test_an_empty_account_is_told_again_after_a_tenth_and_a_minute(world: TopUpWorld) -> None:
    _look(world, 0)
    assert _told(world) == ["low", "exhausted"]
    for available in (101, 0, 50, -10):
        _look(world, available)
    _look(world, 101, after_ms=60_000)
    _look(world, 0)
    assert _told(world) == ["low", "exhausted", "exhausted"]


def test_without_a_threshold_only_an_empty_account_is_told(world: TopUpWorld) -> None:
    world.world.put("acme", low_balance_threshold=None)
    _look(world, 1)
    assert (_told(world), _watched(world)) == ([], [])
    _look(world, 0)
    _look(world, 1, after_ms=60_000)
    assert (_told(world), _watched(world)) == (["exhausted"], [])


def test_the_time_to_zero_is_estimated_from_the_usage_of_the_last_hour(world: TopUpWorld) -> None:
    at_ms = world.clock()
    for seq, (amount, age_ms) in enumerate([(5_000, 3_600_001), (3_000, 3_599_000), (900, 0)], 1):
        assert world.world.account().debit(f"u{seq}", amount)[0] == "debited"
        world.world.flush()
        move = "UPDATE usage_events SET at_ms = :at WHERE id = :id"
        with world.engine.begin() as c:
            c.execute(text("ALTER TABLE usage_events DISABLE TRIGGER ALL"))
            c.execute(text(move), {"at": at_ms - age_ms, "id": f"u{seq}"})
    world.clock.now += 500
    _ring(world)
    world.world.put("acme", low_balance_threshold=1_101)
    world.watch.run_once()
    (data,) = _data(world)
    assert data["available"] == 1_100
    assert data["time_to_zero_seconds"] == 1_100 * 3_600 // 3_900


def test_the_time_to_zero_is_unknown_when_nothing_was_used(world: TopUpWorld) -> None:
    world.world.put("acme", low_balance_threshold=10_001)
    _ring(world)
    world.watch.run_once()
    assert _data(world)[0]["time_to_zero_seconds"] is None


def test_workers_that_look_at_once_tell_once(world: TopUpWorld) -> None:
    world.use(10_000)
    _ring(world)
    watches = [Watch(world.engine, world.standings, now_ms=world.clock) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: one.run_once(), watches * 4))
    assert sorted(_told(world)) == ["exhausted", "low"]


class Crash(BaseException):
    """What a process meets that is killed."""


def test_a_worker_that_dies_before_its_commit_has_told_nothing_and_another_tells_it_once(
    world: TopUpWorld,
) -> None:
    world.use(9_500)
    _ring(world)

    def die(_: Any) -> None:
        raise Crash

    event.listen(world.engine, "commit", die)
    try:
        with pytest.raises(Crash):
            world.watch.run_once()
    finally:
        event.remove(world.engine, "commit", die)
    assert _told(world) == []
    for _ in range(2):
        Watch(world.engine, world.standings, now_ms=world.clock).run_once()
    assert _told(world) == ["low"]


def test_while_redis_is_away_nothing_is_told_and_the_look_is_postponed(world: TopUpWorld) -> None:
    world.use(9_500)
    _ring(world)
    with world.engine.begin() as c:
        c.execute(text("UPDATE shards SET is_fenced = false"))
    assert world.watch.run_once() == 1
    assert _told(world) == []
    world.clock.now += 4_999
    assert world.watch.run_once() == 0
    with world.engine.begin() as c:
        c.execute(text("UPDATE shards SET is_fenced = true"))
    world.clock.now += 1
    assert world.watch.run_once() == 1
    assert _told(world) == ["low"]


def test_credits_on_their_way_to_redis_raise_no_false_alarm(world: TopUpWorld) -> None:
    world.use(9_500)
    world.world.grant("acme", 10_000, "on-its-way")
    _ring(world)
    world.watch.run_once()
    assert (_told(world), _watched(world)) == ([], [])


def test_an_account_that_stays_low_is_looked_at_more_and_more_rarely(world: TopUpWorld) -> None:
    _look(world, 500)
    looks = 0
    for _ in range(600):
        world.clock.now += 1_000
        looks += world.watch.run_once()
    assert looks <= 25
    assert _told(world) == ["low"]


def test_a_closed_account_is_told_nothing_and_watched_no_more(world: TopUpWorld) -> None:
    world.use(10_000)
    _ring(world)
    with world.engine.begin() as c:
        accounts.set_status(c, "acme", AccountStatus.CLOSED, None)
    world.watch.run_once()
    assert (_told(world), _watched(world)) == ([], [])


def test_one_that_fell_again_while_it_was_looked_at_stays_watched(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ring(world)
    real = world.standings.of

    def of(names: Any) -> Any:
        found = real(names)
        world.use(9_500)
        with world.engine.begin() as c:
            c.execute(text("UPDATE watched_accounts SET rung_ms = rung_ms + 1"))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(world.standings, "of", of)
        world.watch.run_once()
    assert _watched(world) == ["acme"]
    world.clock.now += 5_000
    world.watch.run_once()
    assert _told(world) == ["low"]


# What it starts, and what finds lost hints ---------------------------------------------------


def _due(world: TopUpWorld) -> Any:
    return world.setting()["due_ms"]


def test_below_the_auto_top_up_threshold_a_top_up_is_due_at_once(world: TopUpWorld) -> None:
    world.configure(threshold=5_000, due_ms=None)
    _look(world, 5_000)
    assert (_due(world), _watched(world)) == (None, [])
    _look(world, 4_999)
    assert (_due(world), _watched(world), _told(world)) == (world.clock(), ["acme"], [])


@pytest.mark.parametrize(
    "changes", [{"is_enabled": False}, {"paused_reason": "no_card"}, {"due_ms": 5}]
)
def test_a_top_up_that_is_off_paused_or_waits_already_is_left_alone(
    world: TopUpWorld, changes: dict[str, Any]
) -> None:
    world.configure(**({"due_ms": None} | changes))
    world.use(9_000)
    world.clock.now += SWEEP_EVERY_MS
    _ring(world)
    world.watch.run_once()
    assert _due(world) == changes.get("due_ms")


def test_each_minute_lost_hints_are_found_in_the_ledger(world: TopUpWorld) -> None:
    world.configure(threshold=5_000, due_ms=None)
    world.use(9_500)
    world.world.sql("DELETE FROM watched_accounts RETURNING 1")
    world.clock.now += SWEEP_EVERY_MS - 1
    world.watch.run_once()
    assert (_due(world), _told(world)) == (None, [])
    world.clock.now += 1
    world.watch.run_once()
    assert (_due(world), _told(world)) == (world.clock(), ["low"])


def test_many_broke_accounts_are_a_few_statements_each_half_a_minute(
    world: TopUpWorld, engine: Engine
) -> None:
    names = [f"broke-{n}" for n in range(200)]
    with engine.begin() as c:
        for name in names:
            accounts.put_account(c, name, {"low_balance_threshold": 5})
    world.world.sender.run_once()
    for _ in range(4):
        world.clock.now += SWEEP_EVERY_MS
        while world.watch.run_once():
            pass
    assert len(_told(world)) == 2 * len(names)
    statements = 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    world.clock.now += 30_000
    event.listen(engine, "before_cursor_execute", count)
    while world.watch.run_once():
        pass
    event.remove(engine, "before_cursor_execute", count)
    assert _watched(world) == sorted(names)
    assert statements <= 40
    assert len(_told(world)) == 2 * len(names)
