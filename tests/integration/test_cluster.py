"""The workers' parts on a Redis Cluster: what belongs to one node goes there, and stays there.

1. commands and calls for many shards come back in their order, whatever node each went to
2. accounts on all nodes are opened, spent from, flushed, compared
3. a shard whose slot moves is given up, and no other; nothing of it is lost
4. a node that is away takes its own shards with it, and no others: nobody else's flush, refill,
   recovery, registration or goodbye waits for it
5. a slot that is half moved is a shard that waits, and no alarm
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from persistence.pipelines import Call, call_many, call_reachable, is_away
from persistence.recovery import rebuild
from sidecar import keys
from sidecar.deployment import slot_of
from sidecar.nodes import NoNode, RedisNodes
from tests.faults.fleet import Cluster
from tests.faults.redis_node import RedisNode
from tests.integration.ledger_world import World, metric
from tests.integration.simulated_sidecar import SimulatedSidecar

NAMES = [f"acct-{number}" for number in range(12)]


@pytest.fixture(scope="module")
def started() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="credits-test-") as directory:
        made = Cluster(Path(directory))
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture
def cluster(started: Cluster) -> Cluster:
    for node in started.nodes:
        with node.client() as client:
            client.flushall()
    return started


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[RedisNodes]:
    made = RedisNodes.of_url(cluster.url, timeout_s=5)
    yield made
    made.close()


@pytest.fixture
def world(engine: Engine, nodes: RedisNodes) -> World:
    return World(engine, nodes.home, nodes=nodes)


def shard_of(name: str) -> int:
    return keys.shard_of(name, keys.SHARDS)


def another_node(cluster: Cluster, slot: int) -> RedisNode:
    return next(node for node in cluster.masters() if node is not cluster.owner(slot))


def move(cluster: Cluster, nodes: RedisNodes, slot: int) -> None:
    cluster.move(slot, another_node(cluster, slot))
    nodes.doubt()


def test_replies_come_in_the_order_of_what_was_asked(nodes: RedisNodes) -> None:
    shards = list(range(keys.SHARDS))
    nodes.ask(shards, int, lambda p, shard: p.set(keys.cursor(shard), f"cursor of {shard}"))
    answers = nodes.ask(shards, int, lambda p, shard: p.get(keys.cursor(shard)))
    assert answers == [f"cursor of {shard}".encode() for shard in shards]
    assert len(nodes.all()) == 3


def test_nobody_is_asked_when_there_is_nothing_to_ask(nodes: RedisNodes) -> None:
    assert nodes.ask([], int, lambda *_: None) == []


def test_a_cluster_of_which_no_node_answers_has_no_nodes() -> None:
    nowhere = RedisNodes.of_url("redis+cluster://127.0.0.1:1", timeout_s=1)
    with pytest.raises(NoNode):
        nowhere.of(0)
    with pytest.raises(NoNode):
        nowhere.groups([1, 2], int)


def test_accounts_of_every_node_are_opened_spent_from_flushed_and_compared(world: World) -> None:
    accounts = [world.funded(name) for name in NAMES]
    assert len({id(world.nodes.of(account.shard)) for account in accounts}) == 3
    for number, account in enumerate(accounts):
        account.hold(f"h{number}", 300)
        account.settle(f"h{number}", 100 + number)
    world.flush()
    report = world.audit()
    assert report.is_ok
    (compared,) = (line.checked for line in report.lines if line.name == "redis_is_ledger")
    assert compared == len(NAMES)
    assert [world.generation(name).spent for name in NAMES] == [100 + n for n in range(12)]


def test_what_is_due_on_any_node_is_swept(world: World) -> None:
    accounts = [world.funded(name) for name in NAMES]
    for account in accounts:
        account.hold("h", 300)
        account.redis.zadd(account.keys[4], {"h:h": 1})
        account.redis.zadd(account.keys[5], {account.name: 1})
        account.redis.hset(account.keys[0], "next_expiry", 1)
    assert world.sweeper.run_once() == len(NAMES)
    assert {account.number("held") for account in accounts} == {0}


def test_a_shard_whose_slot_moves_is_given_up_alone_and_loses_nothing(
    world: World, cluster: Cluster
) -> None:
    sidecar = SimulatedSidecar(world).register()
    accounts = [world.funded(name) for name in NAMES]
    for number, account in enumerate(accounts):
        account.debit("d", 10 + number)
        sidecar.acknowledge(account)
    moved = accounts[0].shard
    move(cluster, world.nodes, slot_of(moved))
    assert world.opener.open_shards().given_up == {moved: "slot_moved"}
    sidecar.hand_in()
    world.flush()
    world.opener.run_once()
    assert world.sql("SELECT DISTINCT state FROM shards") == ["open"]
    while world.reopener.run_once():
        world.sender.run_once()
    assert [world.generation(name).gen for name in NAMES] == [
        1 + (shard_of(name) == moved) for name in NAMES
    ]
    for number, name in enumerate(NAMES):
        assert world.account(name).number("available") == 1_000 - 10 - number
    world.assert_sound()


def test_where_the_home_moves_sidecars_are_confirmed_again(world: World, cluster: Cluster) -> None:
    sidecar = SimulatedSidecar(world).register()
    world.funded()
    move(cluster, world.nodes, slot_of(None))
    # The new one was not told: it may have the confirmation of one that was let go since.
    assert not sidecar.is_confirmed()
    assert world.opener.open_shards().given_up == {}
    sidecar.register()
    assert sidecar.state == "alive"


@pytest.fixture
def torn(world: World, cluster: Cluster) -> Iterator[tuple[World, set[str]]]:
    """A world in which one node, not the home, is killed; and the accounts that are there."""
    for name in NAMES:
        world.funded(name)
    home = cluster.owner(slot_of(None))
    dead = next(node for node in cluster.masters() if node is not home)
    lost = {name for name in NAMES if cluster.owner(slot_of(shard_of(name))) is dead}
    assert 0 < len(lost) < len(NAMES)
    dead.kill()
    yield world, lost
    dead.start()
    cluster.wait_whole()


def test_a_node_that_is_away_takes_only_its_own_shards_with_it(
    torn: tuple[World, set[str]],
) -> None:
    world, lost = torn
    alive = [name for name in NAMES if name not in lost]
    for name in alive:
        world.account(name).debit("d", 10)
        world.grant(name, 5, "g2")
    for name in lost:
        world.grant(name, 5, "g2")
    assert len(world.flusher.run_once()) == len({shard_of(name) for name in alive})
    assert world.sender.run_once() == len(alive)
    assert {world.account(name).number("available") for name in alive} == {995}
    assert world.opener.run_once() == 0
    assert 0 < metric(world.metrics.fenced_shards) < keys.SHARDS
    assert world.sql("SELECT DISTINCT state FROM shards") == ["open"]


def test_what_is_to_be_given_up_at_a_dead_node_keeps_no_other_from_it(
    torn: tuple[World, set[str]],
) -> None:
    world, lost = torn
    dead = {shard_of(name) for name in lost}
    healthy = next(shard_of(name) for name in NAMES if name not in lost)
    rebuild(world.engine, sorted(dead))
    client: Any = world.nodes.of(healthy)
    client.delete(keys.fence(healthy))
    assert world.opener.open_shards().given_up == {healthy: "fence_missing"}
    states = dict(world.sql("SELECT shard, state FROM shards WHERE state = 'suspect'"))
    assert states == dict.fromkeys(dead, "suspect")


def test_sidecars_say_goodbye_while_a_node_is_away_and_one_of_them_is_silent(
    torn: tuple[World, set[str]],
) -> None:
    world, _ = torn
    silent, leaving = (
        SimulatedSidecar(world, "a").register(),
        SimulatedSidecar(world, "b").register(),
    )
    world.registry.run_once()
    world.seconds += 20
    leaving.beat("leaving")
    for _ in range(2):
        world.registry.run_once()
    assert (silent.state, leaving.state) == ("alive", "gone")


def test_accounts_of_other_nodes_are_loaded_while_one_is_away(
    torn: tuple[World, set[str]],
) -> None:
    world, lost = torn
    home: Any = world.nodes.home
    channel = f"{keys.ANSWER_CHANNEL_PREFIX}test"
    alive = next(name for name in NAMES if name not in lost)
    away = min(lost)
    world.grant(away, 5, "g2")
    with home.pubsub(ignore_subscribe_messages=True) as answers:
        answers.subscribe(channel)
        answers.get_message(timeout=1)
        home.rpush(keys.ASK, f"{channel} {alive}", f"{channel} {away}")
        assert world.loader.answer_asks() == 2
        said = {answers.get_message(timeout=1)["data"].decode() for _ in range(2)}
    assert said == {f"{alive} loaded", f"{away} closing"}


@pytest.fixture
def half_moved(world: World, cluster: Cluster) -> Iterator[tuple[World, int]]:
    """A world in which the slot of the first account begins to move, and stays so."""
    for name in NAMES:
        world.funded(name)
    shard = shard_of(NAMES[0])
    end = cluster.begin_to_move(slot_of(shard), another_node(cluster, slot_of(shard)))
    yield world, shard
    end()


def test_a_slot_that_is_half_moved_keeps_no_other_from_its_fence(
    half_moved: tuple[World, int],
) -> None:
    world, shard = half_moved
    node: Any = world.nodes.of(shard)
    beside = next(s for s in range(keys.SHARDS) if s != shard and world.nodes.of(s) is node)
    # The fence has not moved yet, and a new stream can be made on neither side.
    node.hset(keys.fence(shard), "run_id", "another")
    node.delete(keys.fence(beside))
    given_up = world.opener.open_shards().given_up
    assert given_up == {shard: "fence_differs", beside: "fence_missing"}
    assert world.sql("SELECT shard FROM shards WHERE NOT is_fenced") == [shard]
    # It is tried again, but each try costs an epoch: not at once.
    assert [len(world.opener.open_shards().given_up) for _ in range(3)] == [0, 0, 0]
    assert world.sql("SELECT epoch FROM shards WHERE shard = :s", s=shard) == [2]


def test_a_shard_whose_fence_is_just_moving_is_left_alone(half_moved: tuple[World, int]) -> None:
    world, shard = half_moved
    for node in world.nodes.all():
        node.flushall()
    given_up = world.opener.open_shards().given_up
    assert set(given_up) == set(range(keys.SHARDS)) - {shard}
    assert metric(world.metrics.fenced_shards) == 0
    world.opener.run_once()
    assert metric(world.metrics.fenced_shards) == 1


def test_a_refill_for_a_slot_that_moves_waits_without_an_alarm(
    half_moved: tuple[World, int], cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    world, _ = half_moved
    owner: Any = world.nodes.of(shard_of(NAMES[0]))
    owner.delete(*[key for key in owner.keys("*") if NAMES[0].encode() in key])
    world.grant(NAMES[0], 5, "g2")
    assert world.sender.run_once() == 0
    assert [record for record in caplog.records if record.levelname == "CRITICAL"] == []


def test_calls_of_a_node_that_is_away_have_its_error_for_a_reply(
    torn: tuple[World, set[str]],
) -> None:
    world, lost = torn
    rows = world.sql("SELECT shard, epoch, run_id FROM shards")
    calls = [
        Call("balance", name, shard, epoch, run_id, (0,))
        for name in NAMES
        for shard, epoch, run_id in rows
        if shard == shard_of(name)
    ]
    replies = call_reachable(world.nodes, calls)
    assert {name for name, reply in zip(NAMES, replies, strict=True) if is_away(reply)} == lost
    with pytest.raises(redis.ConnectionError):
        call_many(world.nodes, calls)
    only = [call for call in calls if call.account in lost]
    with pytest.raises(redis.ConnectionError):
        call_reachable(world.nodes, only)
