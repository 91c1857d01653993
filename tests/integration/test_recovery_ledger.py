"""The ledger goes back in time: Postgres is promoted or restored, and its last commits are lost.

Redis and the sidecars know of those commits. What was acknowledged is charged all the same, and no
number of a refill, a generation or an epoch is ever used for two different things.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
import redis
from psycopg import sql
from sqlalchemy import Engine

from persistence.recovery import rebuild
from sidecar import keys
from tests.integration.ledger_world import World
from tests.integration.simulated_sidecar import SimulatedSidecar
from tests.lua.support import Account


class Past:
    """The ledger as it was at some moment."""

    def __init__(self, engine: Engine, client: redis.Redis, server: str) -> None:
        self._engine = engine
        self._client = client
        self._server = server
        self._name = f"credits_past_{uuid.uuid4().hex[:12]}"

    def remember(self) -> None:
        """Keep the ledger as it is now."""
        self._copy(self._engine.url.database, self._name)

    def come_back(self) -> None:
        """Lose what was committed since, as a promoted replica has, and go on from there."""
        self._copy(self._name, self._engine.url.database)
        self._client.hset(keys.META, "timeline", "that of the lost primary")

    def forget(self) -> None:
        """Drop what was kept."""
        self._administrate("DROP DATABASE IF EXISTS {} WITH (FORCE)", self._name)

    def _copy(self, source: str | None, target: str | None) -> None:
        assert source
        assert target
        self._engine.dispose()
        self._administrate("DROP DATABASE IF EXISTS {} WITH (FORCE)", target)
        self._administrate("CREATE DATABASE {} TEMPLATE {}", target, source)

    def _administrate(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            identifiers = [sql.Identifier(name) for name in names]
            connection.execute(sql.SQL(statement).format(*identifiers))


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


@pytest.fixture
def past(engine: Engine, redis_client: redis.Redis, postgres_server: str) -> Iterator[Past]:
    made = Past(engine, redis_client, postgres_server)
    yield made
    made.forget()


@pytest.fixture
def sidecar(world: World) -> SimulatedSidecar:
    world.opener.open_shards()
    return SimulatedSidecar(world).register()


def spend(account: Account, sidecar: SimulatedSidecar, id: str, amount: int) -> None:
    assert account.debit(id, amount)[0] == "debited"
    sidecar.acknowledge(account)


def recover(world: World, *sidecars: SimulatedSidecar) -> None:
    """Let the workers and sidecars bring everything in order again."""
    for _ in range(3):
        world.opener.run_once()
        for sidecar in sidecars:
            sidecar.beat()
            sidecar.hand_in()
        world.registry.run_once()
        world.flush()
    while world.reopener.run_once():
        world.sender.run_once()
    world.opener.run_once()


def causes(world: World) -> list[str]:
    return world.sql("SELECT DISTINCT cause FROM recoveries")


def test_a_promoted_postgres_makes_every_shard_begin_anew_once(world: World) -> None:
    account = world.funded()
    account.debit("d1", 100)
    world.client.hset(keys.META, "timeline", "another")
    opened = world.opener.open_shards()
    assert set(opened.given_up.values()) == {"ledger_promoted"}
    assert len(opened.given_up) == keys.SHARDS
    # Redis was whole: what was in its streams is in the ledger.
    assert world.generation().spent == 100
    assert world.client.hget(keys.META, "timeline") != b"another"
    recover(world)
    assert world.account().balance()[2] == 900
    assert world.sql("SELECT DISTINCT epoch FROM shards") == [2]
    world.assert_sound()


def test_a_postgres_that_says_no_timeline_is_in_no_doubt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.funded()
    monkeypatch.setattr("persistence.opening.timeline", lambda _: "")
    assert world.opener.run_once() == 0
    world.client.delete(keys.META)
    world.opener.run_once()
    assert world.client.hget(keys.META, "timeline") == b""
    monkeypatch.undo()
    world.opener.run_once()
    assert world.client.hget(keys.META, "timeline") != b""
    assert world.sql("SELECT DISTINCT epoch FROM shards") == [1]


def test_usage_whose_commit_is_lost_is_charged_although_its_journal_forgot_it(
    world: World, sidecar: SimulatedSidecar, past: Past
) -> None:
    account = world.funded()
    past.remember()
    spend(account, sidecar, "d1", 100)
    world.flush()
    sidecar.forget_confirmed()
    assert sidecar.records == []
    past.come_back()
    spend(account, sidecar, "d2", 20)
    recover(world, sidecar)
    assert causes(world) == ["ledger_promoted"]
    assert world.account().balance()[2] == 880
    world.assert_sound()


def test_a_refill_number_that_is_given_twice_leaves_what_the_ledger_has(
    world: World, sidecar: SimulatedSidecar, past: Past
) -> None:
    account = world.funded(amount=100)
    past.remember()
    world.grant("acme", 70, "lost")
    world.sender.run_once()
    spend(account, sidecar, "d1", 150)  # partly of the grant that is lost
    past.come_back()
    world.grant("acme", 30, "another")
    world.sender.run_once()  # Redis has a refill of this number
    recover(world, sidecar)
    assert world.account().balance()[2] == -20
    world.assert_sound()


def test_an_account_that_is_made_twice_has_what_it_was_given_the_second_time(
    world: World, sidecar: SimulatedSidecar, past: Past
) -> None:
    past.remember()
    world.funded(amount=100)
    past.come_back()
    world.put("acme")
    world.grant("acme", 30, "g9")
    world.sender.run_once()  # Redis has this generation with as many refills
    recover(world, sidecar)
    assert world.account().balance()[2] == 30
    world.assert_sound()


def test_what_was_handed_in_to_an_epoch_that_the_ledger_lost_is_charged(
    world: World, sidecar: SimulatedSidecar, past: Past
) -> None:
    account = world.funded()
    spend(account, sidecar, "d1", 100)
    past.remember()
    world.client.flushall()
    world.opener.run_once()
    sidecar.register()
    sidecar.hand_in()
    world.flush()
    # The cursor has passed the mark: no journal has it any more.
    assert world.client.get(keys.cursor(account.shard)).startswith(b"2 1")
    past.come_back()
    recover(world, sidecar)
    assert world.sql("SELECT DISTINCT epoch FROM shards") == [3]
    assert world.account().balance()[2] == 900
    world.assert_sound()


def test_events_of_a_generation_that_the_ledger_lost_are_kept_and_the_shard_is_given_up(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    world.write_event("acme", 1, generation=9)
    (result,) = world.flush()
    assert (result.dead, result.events) == (1, 1)
    assert world.sql("SELECT cause FROM shards WHERE state = 'suspect'") == ["ledger_behind"]
    assert world.client.get(keys.cursor(account.shard)) in (None, b"1 0-0")
    recover(world, sidecar)
    assert world.sql("SELECT DISTINCT state FROM shards") == ["open"]
    assert world.account().balance()[2] == 1_000
    # A person decides of it.
    assert world.wrong_lines() == {"no_dead_letters": 1}


def test_a_dead_letter_that_is_handed_in_again_gives_up_nothing(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    spend(account, sidecar, "d1", 10)
    (record,) = sidecar.records
    world.sql(
        "INSERT INTO dead_letters (shard, stream_id, raw, reason, error, account, generation, seq,"
        " amount, created_ms)"
        " VALUES (1, '1-1', :raw, 'unknown_generation', '', 'gone', 1, 1, 10, 1) RETURNING 1",
        raw=record.event.replace(b"acme", b"gone"),
    )
    world.client.xadd(keys.stream(account.shard, 1), {"e": record.event.replace(b"acme", b"gone")})
    world.flush()
    assert world.sql("SELECT DISTINCT state FROM shards") == ["open"]


def test_a_suspect_shard_is_kept_until_its_stream_is_in_the_ledger(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    spend(account, sidecar, "d1", 10)
    world.client.hset(keys.META, "timeline", "another")
    with world.engine.begin() as connection:
        query = "SELECT FROM generations FOR UPDATE"
        connection.exec_driver_sql(query)
        opened = world.opener.open_shards()  # the flush waits for that row in vain
        assert account.shard not in opened.given_up
        assert len(opened.given_up) == keys.SHARDS - 1
    opened = world.opener.open_shards()
    assert list(opened.given_up) == [account.shard]
    assert world.generation().spent == 10


def test_sidecars_that_the_ledger_forgot_are_waited_for(
    world: World, past: Past, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    past.remember()
    late = SimulatedSidecar(world, "late").register()
    spend(account, sidecar, "d1", 10)
    world.flush()
    past.come_back()
    # What it acknowledges now is in its journal alone when the shard is given up.
    spend(account, late, "d2", 20)
    # Nobody takes its confirmation back because the ledger lacks it.
    assert world.registry.run_once() == 0
    assert late.is_confirmed()
    world.opener.run_once()
    assert world.sql("SELECT name FROM sidecars WHERE state = 'alive' ORDER BY 1") == [
        "late",
        "one",
    ]
    sidecar.hand_in()
    world.flush()
    assert world.sql("SELECT DISTINCT state FROM shards") == ["draining"]
    recover(world, sidecar, late)
    assert world.account().balance()[2] == 970
    world.assert_sound()


def test_nothing_is_flushed_into_a_ledger_in_doubt_before_its_shards_are_suspect(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    spend(account, sidecar, "d1", 10)
    world.client.hset(keys.META, "timeline", "another")
    assert world.flusher.run_once() == []
    assert world.generation().seq == 0
    recover(world, sidecar)
    assert world.account().balance()[2] == 990
    world.assert_sound()


def test_a_flush_of_an_older_epoch_is_none_of_the_newer_one(
    world: World, sidecar: SimulatedSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = world.funded()
    spend(account, sidecar, "d1", 10)
    rebuild(world.engine, [account.shard])
    other = World(world.engine, world.client)
    flush = world.opener._flush_suspects

    def flush_and_be_overtaken() -> tuple[str, dict[int, int]]:
        found = flush()
        monkeypatch.undo()
        other.opener.open_shards()
        rebuild(world.engine, [account.shard])  # and that epoch is doubted as well
        return found

    monkeypatch.setattr(world.opener, "_flush_suspects", flush_and_be_overtaken)
    assert world.opener.open_shards().given_up == {}
    assert world.sql("SELECT epoch, state FROM shards WHERE shard = :s", s=account.shard) == [
        (2, "suspect")
    ]
    recover(world, sidecar)
    assert world.account().balance()[2] == 990
    world.assert_sound()


def test_one_that_is_suspect_before_its_fence_was_confirmed_is_flushed_and_given_up(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    world.client.delete(keys.fence(account.shard))
    world.opener.run_once()
    # The worker died before it said so, and somebody doubts the shard.
    world.sql("UPDATE shards SET is_fenced = false WHERE shard = :s RETURNING 1", s=account.shard)
    rebuild(world.engine, [account.shard])
    for _ in range(3):
        world.opener.run_once()
    assert world.sql("SELECT epoch, state FROM shards WHERE shard = :s", s=account.shard) == [
        (3, "draining")
    ]
    recover(world, sidecar)
    assert world.account().balance()[2] == 1_000
    world.assert_sound()
