"""Losses of Redis: noticed, given up, drained of every journal; nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import msgspec
import pytest
import redis
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from persistence import fences
from persistence.errors import RedisChanged
from persistence.recovery import rebuild, waiting_for
from sidecar import keys
from tests.integration.ledger_world import World
from tests.integration.meter_server import eventually
from tests.integration.simulated_sidecar import SimulatedSidecar
from tests.lua.support import Account


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


@pytest.fixture
def sidecar(world: World) -> SimulatedSidecar:
    world.opener.open_shards()
    return SimulatedSidecar(world).register()


def shard_row(world: World, shard: int) -> Any:
    query = "SELECT epoch, state, is_fenced, cause, cursor FROM shards WHERE shard = :s"
    (row,) = world.sql(query, s=shard)
    return row


def fence(world: World, shard: int) -> tuple[bytes, bytes]:
    epoch, draining = world.client.hmget(keys.fence(shard), "epoch", "draining")
    return epoch, draining


def spend(account: Account, sidecar: SimulatedSidecar, *amounts: int) -> None:
    for amount in amounts:
        account.debit(f"{sidecar.name}-{len(sidecar.records)}-{amount}", amount)
        sidecar.acknowledge(account)


def recoveries(world: World) -> int:
    """Return how many shards were drained."""
    samples = next(iter(world.metrics.recovery_seconds.collect())).samples
    return int(next(sample.value for sample in samples if sample.name.endswith("_count")))


def hand_in(world: World, *sidecars: SimulatedSidecar) -> None:
    """Let sidecars hand in, the flusher post it and the opener see it."""
    for sidecar in sidecars:
        sidecar.beat()
        sidecar.hand_in()
    world.registry.run_once()
    world.flush()
    world.opener.run_once()


def reopened(world: World, account: str = "acme") -> Account:
    """Reopen an account, send it to Redis and return it."""
    assert world.reopener.reopen([account]) == [account]
    world.sender.send([account])
    return world.account(account)


# Noticed ------------------------------------------------------------------------------------


def test_a_redis_that_was_emptied_is_given_up_and_waits_for_the_journals(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    world.client.flushall()
    opened = world.opener.open_shards()
    assert len(opened.given_up) == keys.SHARDS
    assert shard_row(world, account.shard) == (2, "draining", True, None, "0-0")
    assert fence(world, account.shard) == (b"2", b"1")
    names = world.run(waiting_for)
    assert names == {f"one ({sidecar.id})": keys.SHARDS}
    counted = world.metrics.recoveries.labels("fence_missing")._value.get()
    assert counted == keys.SHARDS


@pytest.mark.parametrize(
    ("field", "cause"), [("run_id", "redis_restarted"), ("replid", "redis_promoted")]
)
def test_another_redis_process_is_given_up(world: World, field: str, cause: str) -> None:
    world.funded()
    world.sql(f"UPDATE shards SET {field} = 'before' RETURNING 1")
    opened = world.opener.open_shards()
    assert set(opened.given_up.values()) == {cause}
    assert world.sql("SELECT DISTINCT epoch FROM shards") == [2]


def test_a_fence_of_an_older_epoch_is_given_up(world: World) -> None:
    account = world.funded()
    world.client.hset(keys.fence(account.shard), "epoch", 0)
    opened = world.opener.open_shards()
    assert opened.given_up == {account.shard: "fence_differs"}


def test_a_fence_of_a_newer_epoch_than_the_ledgers_is_passed_by(world: World) -> None:
    account = world.funded()
    world.client.hset(keys.fence(account.shard), "epoch", 7)
    world.opener.run_once()
    # The ledger went back in time: first it reads what there is of that epoch.
    assert shard_row(world, account.shard)[:4] == (7, "suspect", True, "ledger_behind")
    world.opener.run_once()
    assert shard_row(world, account.shard)[0] == 8
    assert fence(world, account.shard) == (b"8", b"0")


def test_a_fence_that_no_worker_wrote_is_no_guide(world: World) -> None:
    account = world.funded()
    world.client.hset(keys.fence(account.shard), "epoch", "9" * 30)
    assert world.opener.open_shards().given_up == {account.shard: "fence_missing"}
    assert shard_row(world, account.shard)[0] == 2


def test_the_fence_of_another_process_is_given_up(world: World) -> None:
    account = world.funded()
    world.client.hset(keys.fence(account.shard), "run_id", "another")
    assert world.opener.open_shards().given_up == {account.shard: "fence_differs"}


def test_one_accounts_keys_deleted_bring_it_back_with_what_it_has(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    spend(account, sidecar, 100)
    world.client.delete(*account.keys[:5])
    world.client.rpush(keys.ASK, f"{keys.ANSWER_CHANNEL_PREFIX}c acme")
    world.loader.answer_asks(1)
    world.opener.run_once()
    assert shard_row(world, account.shard)[:2] == (2, "draining")
    hand_in(world, sidecar)
    assert reopened(world).balance()[:3] == ["ok", "active", 900]
    world.assert_sound()


def test_what_the_operator_wants_rebuilt_is_given_up(world: World) -> None:
    account = world.funded()
    account.debit("d1", 10)
    assert rebuild(world.engine, [account.shard]) == 1
    opened = world.opener.open_shards()
    assert opened.given_up == {account.shard: "rebuild"}
    # Redis was whole: what was in its stream is in the ledger before it is given up.
    assert world.generation().spent == 10
    assert reopened(world).balance()[2] == 990
    world.assert_sound()


def test_the_name_of_the_ledger_in_redis_is_written_again(world: World) -> None:
    world.funded()
    world.client.delete(keys.META)
    world.opener.run_once()
    assert world.client.hget(keys.META, "shards") == b"64"
    assert world.sql("SELECT DISTINCT epoch FROM shards") == [1]


def test_a_replica_is_never_trusted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.funded()
    monkeypatch.setattr(fences, "_MASTER", "no such role")
    with pytest.raises(RedisChanged, match="replica"):
        world.opener.run_once()
    assert world.sql("SELECT DISTINCT epoch FROM shards") == [1]


def test_nothing_is_done_while_all_is_well(world: World, sidecar: SimulatedSidecar) -> None:
    world.funded()
    before = world.sql("SELECT xmin::text, shard FROM shards")
    assert [world.opener.run_once() for _ in range(3)] == [0, 0, 0]
    assert world.sql("SELECT xmin::text, shard FROM shards") == before


# Given up and fenced ------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["write", "write_flags"])
def test_a_worker_that_dies_in_the_middle_leaves_it_to_the_next(
    world: World, sidecar: SimulatedSidecar, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    account = world.funded()
    spend(account, sidecar, 100)
    world.client.flushall()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fences, step, die)
        with pytest.raises(KeyboardInterrupt):
            world.opener.open_shards()
    world.opener.run_once()
    expected = 3 if step == "write" else 2
    assert shard_row(world, account.shard)[:3] == (expected, "draining", True)
    hand_in(world, sidecar)
    assert reopened(world).balance()[2] == 900
    world.assert_sound()


def test_a_worker_that_dies_before_it_says_that_the_fences_are_written_is_excused(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    world.client.flushall()
    world.opener.open_shards()
    world.sql("UPDATE shards SET is_fenced = false RETURNING 1")
    assert world.flusher.run_once() == []
    world.opener.run_once()
    assert shard_row(world, account.shard)[:3] == (2, "draining", True)


def test_what_a_worker_writes_that_hung_for_too_long_is_not_believed(
    world: World, sidecar: SimulatedSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = world.funded()
    spend(account, sidecar, 100)
    other = World(world.engine, world.client)
    write = fences.write

    def hang(*args: Any) -> None:
        monkeypatch.undo()
        # Postgres ends the transaction that has the lock, and another worker goes on.
        world.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        other.opener.run_once()
        assert shard_row(world, account.shard)[0] == 3
        write(*args)

    world.client.flushall()
    monkeypatch.setattr(fences, "write", hang)
    with pytest.raises(OperationalError):
        world.opener.open_shards()
    assert fence(world, account.shard)[0] == b"2"
    world.opener.run_once()
    assert shard_row(world, account.shard)[:3] == (4, "draining", True)
    hand_in(world, sidecar)
    assert reopened(world).balance()[2] == 900
    world.assert_sound()


def test_a_second_loss_during_a_drain_begins_it_anew(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    spend(account, sidecar, 100, 50)
    world.client.flushall()
    world.opener.run_once()
    records = list(sidecar.records)
    sidecar.hand_in()
    world.client.flushall()
    world.opener.run_once()
    assert shard_row(world, account.shard)[:2] == (3, "draining")
    sidecar.records = records
    hand_in(world, sidecar)
    assert shard_row(world, account.shard)[:2] == (3, "open")
    assert reopened(world).balance()[2] == 850
    world.assert_sound()


def test_two_workers_that_notice_at_once_give_it_up_once(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.funded()
    others = [World(world.engine, world.client) for _ in range(3)]
    world.client.flushall()
    threads = [threading.Thread(target=other.opener.run_once) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.sql("SELECT DISTINCT epoch FROM shards") == [2]
    assert world.sql("SELECT count(*) FROM recoveries") == [keys.SHARDS]
    assert world.sql("SELECT count(*) FROM drains") == [keys.SHARDS]


# Drained ------------------------------------------------------------------------------------


def test_without_sidecars_a_shard_is_open_at_once(world: World) -> None:
    account = world.funded()
    world.client.flushall()
    world.opener.run_once()
    assert shard_row(world, account.shard)[:3] == (2, "open", True)
    assert fence(world, account.shard) == (b"2", b"0")
    assert world.sql("SELECT count(*) FROM recoveries WHERE drained_ms IS NULL") == [0]
    assert recoveries(world) == keys.SHARDS
    assert reopened(world).balance()[2] == 1_000
    world.assert_sound()


def test_the_last_mark_ends_the_drain_exactly_once(world: World, sidecar: SimulatedSidecar) -> None:
    other = SimulatedSidecar(world, "two").register()
    account = world.funded()
    spend(account, sidecar, 100)
    spend(account, other, 70)
    world.client.flushall()
    world.opener.run_once()
    hand_in(world, sidecar)
    assert shard_row(world, account.shard)[1] == "draining"
    assert world.reopener.reopen(["acme"]) == []
    hand_in(world, other)
    assert shard_row(world, account.shard)[1] == "open"
    assert fence(world, account.shard) == (b"2", b"0")
    (drained,) = world.sql("SELECT DISTINCT drained_ms IS NOT NULL FROM recoveries")
    assert drained
    # Its mark again, as after a lost answer.
    mark = f"{other.id} 2"
    other.call_hand_in(account.shard, 2, mark)
    (result,) = world.flush()
    assert (result.events, result.marks, result.dead) == (1, 0, 0)
    assert recoveries(world) == keys.SHARDS
    assert reopened(world).balance()[2] == 830
    world.assert_sound()


def test_a_sidecar_that_comes_during_a_drain_is_waited_for_too(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    spend(account, sidecar, 100)
    world.client.flushall()
    world.opener.run_once()
    late = SimulatedSidecar(world, "late").register()
    hand_in(world, sidecar)
    assert shard_row(world, account.shard)[1] == "draining"
    hand_in(world, late)
    assert shard_row(world, account.shard)[1] == "open"


def test_the_streams_of_older_epochs_go_before_a_fence_is_written(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    spend(account, sidecar, 100)
    for _ in range(2):
        world.client.delete(keys.fence(account.shard))
        world.opener.run_once()
        newest = keys.stream(account.shard, shard_row(world, account.shard)[0])
        assert world.client.keys(f"{keys.tag(account.shard)}:u:*") == [newest.encode()]
    hand_in(world, sidecar)
    assert shard_row(world, account.shard)[:2] == (3, "open")


def is_fenced_anew(world: World, shard: int) -> bool:
    with contextlib.suppress(redis.OutOfMemoryError):
        world.opener.run_once()
    return bool(shard_row(world, shard)[1:3] == ("draining", True))


def test_a_full_redis_that_is_lost_is_recovered_all_the_same(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    spend(account, sidecar, 100)
    # What fills it is a stream that waits for the ledger.
    for _ in range(50):
        world.client.xadd(keys.stream(account.shard, 1), {"e": b"x" * 100_000})
    world.client.hset(keys.fence(account.shard), "run_id", "another")
    world.client.config_set("maxmemory", world.client.info("memory")["used_memory"])
    try:
        # Redis frees in the background what is unlinked, so more than one try may be needed.
        eventually(lambda: is_fenced_anew(world, account.shard))
        hand_in(world, sidecar)
        assert reopened(world).balance()[2] == 900
    finally:
        world.client.config_set("maxmemory", 0)
    world.assert_sound()


def test_a_mark_of_an_older_drain_counts_for_nothing(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    world.client.flushall()
    world.opener.run_once()
    stream = keys.stream(account.shard, 2)
    world.client.xadd(stream, {"h": f"{sidecar.id} 1"})
    world.client.xadd(stream, {"h": "nonsense"})
    (result,) = world.flush()
    assert (result.events, result.marks, result.dead) == (2, 0, 1)
    assert shard_row(world, account.shard)[1] == "draining"
    assert world.sql("SELECT reason, raw FROM dead_letters") == [("unreadable", b"nonsense")]


def test_events_that_the_ledger_has_are_handed_in_for_nothing(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    spend(account, sidecar, 100, 50)
    world.flush()
    # Its worker had died before it published the cursor.
    world.client.flushall()
    world.opener.run_once()
    sidecar.hand_in()
    (result,) = (one for one in world.flush() if one.replayed)
    assert (result.events, result.inserted, result.replayed, result.marks) == (3, 0, 2, 1)
    assert world.generation().spent == 150
    world.opener.run_once()
    assert reopened(world).balance()[2] == 850
    world.assert_sound()


def test_the_rest_of_a_journal_is_posted_in_any_order_and_with_gaps(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    spend(account, sidecar, 100)
    world.flush()
    spend(account, sidecar, 1, 2, 3, 4)
    del sidecar.records[2]
    sidecar.records.reverse()
    world.client.flushall()
    world.opener.run_once()
    hand_in(world, sidecar)
    # The call of 2 was never acknowledged.
    assert world.generation().spent == 108
    assert shard_row(world, account.shard)[1] == "open"
    assert reopened(world).balance()[2] == 892
    world.assert_sound()


def test_what_is_handed_in_twice_is_posted_once(world: World, sidecar: SimulatedSidecar) -> None:
    account = world.funded()
    spend(account, sidecar, 100, 50)
    world.client.flushall()
    world.opener.run_once()
    records = list(sidecar.records)
    sidecar.hand_in(with_mark=False)
    sidecar.records = records
    hand_in(world, sidecar)
    assert world.generation().spent == 150
    assert reopened(world).balance()[2] == 850
    world.assert_sound()


def test_a_charge_whose_refund_was_never_acknowledged_goes_beyond_all_grants(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded(amount=100)
    spend(account, sidecar, 80)
    charged = f"{sidecar.name}-0-80"
    account.refund("r1", charged)  # and the sidecar died before it answered
    spend(account, sidecar, 90)
    world.client.flushall()
    world.opener.run_once()
    hand_in(world, sidecar)
    assert (world.generation().spent, world.generation().overage) in ((170, 90), (170, 80))
    assert reopened(world).balance()[2] == -70
    world.assert_sound()


def test_refills_go_to_no_lost_redis(world: World, sidecar: SimulatedSidecar) -> None:
    world.funded()
    world.client.flushall()
    world.opener.run_once()
    world.grant("acme", 50, "g2")
    assert world.balance("available:acme") == 50
    assert world.sender.run_once() == 0
    hand_in(world, sidecar)
    assert reopened(world).balance()[2] == 1_050
    world.assert_sound()


def test_a_new_account_works_while_its_shard_drains(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.funded()
    world.client.flushall()
    world.opener.run_once()
    account = world.put("newcomer")
    world.grant("newcomer", 70)
    world.sender.run_once()
    account.debit("d1", 20)
    assert account.balance()[2] == 50
    world.flush()
    assert world.generation("newcomer").spent == 20
    hand_in(world, sidecar)
    world.assert_sound()


def test_what_was_asked_for_during_a_drain_is_closing_and_loaded_afterwards(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.funded()
    world.client.flushall()
    world.opener.run_once()
    assert ask(world, "acme") == "closing"
    hand_in(world, sidecar)
    assert ask(world, "acme") == "loaded"
    assert world.account().balance()[2] == 1_000
    world.assert_sound()


def ask(world: World, account: str) -> str:
    with world.client.pubsub(ignore_subscribe_messages=True) as pubsub:
        channel = f"{keys.ANSWER_CHANNEL_PREFIX}c"
        pubsub.subscribe(channel)
        pubsub.get_message(timeout=5)
        world.client.rpush(keys.ASK, f"{channel} {account}")
        world.loader.answer_asks(1)
        while (message := pubsub.get_message(timeout=5)) is None:
            continue
        return str(message["data"].decode().rpartition(" ")[2])


# The same call in two lives -----------------------------------------------------------------


def uuid7(at_ms: int) -> str:
    digits = f"{at_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000001"


def test_a_call_that_ran_in_two_lives_is_charged_once_and_given_back(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    (time,) = world.sql("SELECT (extract(epoch FROM now()) * 1000)::bigint")
    account.debit(uuid7(time), 30)
    sidecar.acknowledge(account)
    world.client.flushall()
    world.opener.run_once()
    hand_in(world, sidecar)
    again = reopened(world)
    assert again.balance()[2] == 970
    # Sent again through another sidecar, that has not this one's journal.
    again.debit(uuid7(time), 30)
    (result,) = world.flush()
    assert (result.inserted, result.duplicates) == (0, 1)
    world.sender.run_once()
    assert again.balance()[2] == 970
    assert world.counters() == (30, 0, 0)
    world.assert_sound()


def test_events_without_such_an_id_are_two_in_two_lives(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    account.debit("d1", 30)
    sidecar.acknowledge(account)
    world.client.flushall()
    world.opener.run_once()
    hand_in(world, sidecar)
    reopened(world).debit("d1", 30)
    world.assert_sound()
    assert world.counters() == (60, 0, 0)


def test_a_journal_that_comes_after_the_generation_was_closed_is_taken_from_the_next(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded(amount=100)
    spend(account, sidecar, 60)
    world.client.flushall()
    world.opener.run_once()
    world.registry._dead_seconds = 30
    world.registry.run_once()
    world.seconds += 31
    world.registry.run_once()
    assert sidecar.state == "dead"
    world.opener.run_once()
    again = reopened(world)
    assert again.balance()[2] == 100
    again.debit("d2", 70)
    world.flush()
    # It is back, with its disk.
    sidecar.register()
    hand_in(world, sidecar)
    assert (world.sql("SELECT spent, residue, overage FROM generations WHERE gen = 1")) == [
        (60, 40, 60)
    ]
    world.sender.run_once()
    assert again.balance()[2] == -30
    world.assert_sound()


def test_a_refund_that_comes_after_the_generation_was_closed_is_given_to_the_next(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded(amount=100)
    account.debit("d1", 60)
    world.flush()
    account.refund("r1", "d1", detail=msgspec.json.encode({"of": "d1"}).decode())
    sidecar.acknowledge(account)
    world.client.flushall()
    world.opener.run_once()
    records, sidecar.records = sidecar.records, []
    hand_in(world, sidecar)
    again = reopened(world)
    assert again.balance()[2] == 40
    sidecar.records = records
    hand_in(world, sidecar)
    world.sender.run_once()
    assert again.balance()[2] == 100
    world.assert_sound()
