"""Refills, the opening of shards, and accounts that sidecars ask for."""

from __future__ import annotations

import threading

import pytest
import redis
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from persistence import schema
from persistence.accounts import set_status
from persistence.asks import AccountLoader
from persistence.database import make_engine
from persistence.errors import RedisMismatch
from persistence.grants import add_adjustment
from persistence.rolling import end_grants
from sidecar import keys
from sidecar.domain import AccountStatus, Category
from sidecar.metrics import WorkerMetrics
from tests.integration.ledger_world import World, metric


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


@pytest.fixture
def loader(world: World) -> AccountLoader:
    return world.loader


def pending(world: World) -> int:
    (count,) = world.sql("SELECT count(*) FROM refills WHERE applied_ms IS NULL")
    return int(count)


def ask(world: World, account: str, channel: str = "c1") -> str:
    full = f"{keys.ANSWER_CHANNEL_PREFIX}{channel}"
    world.client.rpush(keys.ASK, f"{full} {account}")
    return full


# Shards ------------------------------------------------------------------------------------


def test_opening_writes_a_fence_for_every_shard_and_says_which_ledger_it_is(world: World) -> None:
    opened = world.opener.open_shards()
    assert len(opened.opened) == keys.SHARDS
    info = world.client.info("server")
    fence = world.client.hgetall(keys.fence(0))
    assert (fence[b"epoch"], fence[b"run_id"].decode()) == (b"1", info["run_id"])
    assert fence[b"draining"] == b"0"
    process = ("open", True, info["run_id"], fence[b"replid"].decode())
    assert world.sql("SELECT DISTINCT state, is_fenced, run_id, replid FROM shards") == [process]
    (ledger,) = world.sql("SELECT ledger_id::text FROM ledger")
    meta = world.client.hgetall(keys.META)
    assert (meta[b"shards"], meta[b"ledger"]) == (b"64", ledger.encode())
    assert meta[b"timeline"] == b"00000001"


def test_opening_again_keeps_everything(world: World) -> None:
    account = world.funded()
    opened = world.opener.open_shards()
    assert (len(opened.kept), opened.opened, opened.given_up) == (keys.SHARDS, [], {})
    assert world.opener.run_once() == 0
    assert account.balance()[2] == 1_000


def test_two_workers_that_open_at_once_agree(world: World) -> None:
    others = [World(world.engine, world.client) for _ in range(3)]
    threads = [threading.Thread(target=other.opener.open_shards) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    epochs = world.sql("SELECT DISTINCT epoch FROM shards")
    fences = {world.client.hget(keys.fence(shard), "epoch") for shard in range(keys.SHARDS)}
    assert (epochs, fences) == ([1], {b"1"})


def test_fences_of_a_ledger_from_before_processes_were_named_are_kept(world: World) -> None:
    account = world.funded()
    for shard in range(keys.SHARDS):
        world.client.hdel(keys.fence(shard), "draining")
    world.sql("UPDATE shards SET run_id = NULL, replid = NULL, is_fenced = false RETURNING 1")
    world.opener.run_once()
    assert world.sql("SELECT DISTINCT epoch, state, is_fenced FROM shards") == [(1, "open", True)]
    account.debit("d1", 10)
    world.assert_sound()
    assert world.generation().spent == 10


def test_a_redis_of_another_ledger_is_refused(world: World, empty_postgres_url: str) -> None:
    world.opener.open_shards()
    schema.upgrade(empty_postgres_url)
    engine = make_engine(empty_postgres_url)
    with pytest.raises(RedisMismatch, match="do not belong"):
        World(engine, world.client).opener.open_shards()
    engine.dispose()


# Refills -----------------------------------------------------------------------------------


def test_accounts_made_before_the_shards_are_open_are_filled_afterwards(world: World) -> None:
    world.put("acme")
    world.grant("acme", 70)
    assert world.sender.run_once() == 0
    world.opener.open_shards()
    assert world.sender.run_once() == 2
    assert world.put("acme").balance()[2] == 70


def test_every_kind_of_refill_is_applied_in_order_and_only_once(world: World) -> None:
    account = world.funded(amount=100)
    world.grant("acme", 50, "p1", category=Category.PROMO, priority=10, expires_at_ms=9 * 10**12)
    world.run(lambda c: add_adjustment(c, "acme", "a1", -30, "mistake"))
    world.run(lambda c: set_status(c, "acme", AccountStatus.SUSPENDED, "unpaid"))
    world.put("acme", overdraft_limit=7)
    world.run(lambda c: end_grants(c, "acme", ["p1"]))
    assert world.sender.run_once() == 5
    assert (world.sender.run_once(), pending(world)) == (0, 0)
    reply = account.balance()
    assert reply[1:5] == ["suspended", 100, 0, 7]
    assert world.generation().applied_refill_no == world.generation().refill_no == 7
    world.assert_sound()


def test_a_worker_that_dies_between_sending_and_marking_does_no_harm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = world.funded(amount=100)
    world.grant("acme", 50, "g2")

    def die(_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(world.sender._rows, "mark", die)
        with pytest.raises(KeyboardInterrupt):
            world.sender.send(["acme"])
    assert (account.balance()[2], pending(world)) == (150, 1)
    world.sender.run_once()
    assert (account.balance()[2], pending(world)) == (150, 0)


def test_two_workers_that_send_the_same_refills_apply_them_once(world: World) -> None:
    account = world.funded(amount=1)
    for number in range(60):
        world.grant("acme", 10, f"n{number}")
    others = [World(world.engine, world.client) for _ in range(3)]
    threads = [threading.Thread(target=other.sender.run_once) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (account.balance(0)[2], pending(world)) == (601, 0)
    world.assert_sound()


def test_more_refills_than_one_round_sends_are_all_applied(world: World) -> None:
    account = world.funded(amount=1)
    for number in range(450):
        world.grant("acme", 1, f"n{number}")
    assert world.sender.run_once() == 450
    assert account.balance(0)[2] == 451


def test_an_account_that_lacks_refills_it_had_is_not_trusted(world: World) -> None:
    account = world.funded(amount=100)
    world.grant("acme", 5, "g2")
    before = world.client.dump(account.keys[0])
    world.sender.run_once()
    world.client.restore(account.keys[0], 0, before, replace=True)
    world.grant("acme", 6, "g3")
    assert world.sender.send(["acme"]).lost == {"acme"}
    assert suspects(world) == [(account.shard, "refill_behind")]


def suspects(world: World) -> list[tuple[int, str]]:
    return world.sql("SELECT shard, cause FROM shards WHERE state = 'suspect'")


def test_an_account_that_redis_lost_waits_and_is_not_filled_anew(world: World) -> None:
    account = world.funded(amount=100)
    for key in account.keys[:4]:
        world.client.delete(key)
    world.grant("acme", 5, "g2")
    sent = world.sender.send(["acme"])
    assert (sent.applied, sent.lost) == (0, {"acme"})
    assert (account.balance(), pending(world)) == (["unknown"], 1)
    assert suspects(world) == [(account.shard, "account_missing")]


def test_a_redis_that_is_ahead_of_the_ledger_is_not_trusted(world: World) -> None:
    account = world.funded(amount=100)
    # As after a fail-over of Postgres that lost the commits of these two.
    account.grant(98, 40, refill_no=3)
    account.grant(99, 40, refill_no=4)
    world.grant("acme", 5, "g2")
    world.sender.run_once()
    assert suspects(world) == [(account.shard, "refill_ahead")]


def test_scripts_that_redis_forgot_are_loaded_again(world: World) -> None:
    account = world.funded(amount=100)
    world.client.script_flush()
    world.grant("acme", 5, "g2")
    world.sender.run_once()
    assert account.balance()[2] == 105


# Asks --------------------------------------------------------------------------------------


def test_asked_accounts_are_loaded_and_answered(world: World, loader: AccountLoader) -> None:
    world.opener.open_shards()
    account = world.put("acme")
    world.grant("acme", 40)
    with world.client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(ask(world, "acme"), ask(world, "nobody", "c2"))
        pubsub.get_message(timeout=5)
        pubsub.get_message(timeout=5)
        assert loader.answer_asks(1) == 2
        answers = {_message(pubsub), _message(pubsub)}
    assert answers == {("c1", "acme loaded"), ("c2", "nobody unknown")}
    assert account.balance()[2] == 40


def _message(pubsub: redis.client.PubSub) -> tuple[str, str]:
    while True:
        message = pubsub.get_message(timeout=5)
        if message is not None:
            channel = message["channel"].decode().removeprefix(keys.ANSWER_CHANNEL_PREFIX)
            return channel, message["data"].decode()


def test_an_account_whose_keys_are_gone_is_closing_and_never_unknown(
    world: World, loader: AccountLoader
) -> None:
    account = world.funded()
    for key in account.keys[:4]:
        world.client.delete(key)
    with world.client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(ask(world, "acme"))
        pubsub.get_message(timeout=5)
        loader.answer_asks(1)
        assert _message(pubsub) == ("c1", "acme closing")
    assert suspects(world) == [(account.shard, "account_missing")]


def test_asks_that_make_no_sense_are_dropped(world: World, loader: AccountLoader) -> None:
    for text in (b"", b"c1", b"c1 acme", b"\xff\xfe", b"credits:answer:c1 not/valid"):
        world.client.rpush(keys.ASK, text)
    assert loader.answer_asks(1) == 0
    assert world.client.llen(keys.ASK) == 0


def test_waiting_for_asks_ends(loader: AccountLoader) -> None:
    assert loader.answer_asks(0.05) == 0


def test_the_lag_of_refills_is_seen(world: World) -> None:
    metrics = WorkerMetrics(CollectorRegistry())
    world.funded()
    world.grant("acme", 5, "g2")
    world.sql("UPDATE refills SET created_ms = 0 WHERE applied_ms IS NULL RETURNING 1")
    world.client.delete(world.put("acme").keys[0])
    world.sender._metrics = metrics
    world.sender.run_once()
    assert metric(metrics.refill_lag_seconds) > 1_000
