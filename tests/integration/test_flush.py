"""The flusher: each event once, sums from what was inserted, and nothing dropped in silence."""

from __future__ import annotations

import logging
import threading
import uuid

import msgspec
import pytest
import redis
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from persistence import batches
from persistence.catching_up import CatchingUp
from persistence.errors import RedisChanged, ShardBusy
from persistence.flush import Flusher
from persistence.grants import add_adjustment
from persistence.reads import Filters, explain, usage_rows
from sidecar import keys
from tests.integration.ledger_world import World, metric


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


def uuid7(at_ms: int) -> str:
    return str(uuid.UUID(int=(at_ms << 80) | (7 << 76) | (2 << 62) | 12345))


def test_a_settled_hold_reaches_the_ledger_with_all_that_is_known_of_it(world: World) -> None:
    account = world.funded()
    context = {"model": "m1", "scopes": {"user": "u1"}, "metadata": {"a": "1"}}
    detail = {"usage": {"model": "m1", "input_tokens": 5}, "metadata": {"b": "2"}}
    account.hold("h1", 100, context=msgspec.json.encode(context).decode(), price_version="p1")
    account.settle("h1", 70, detail=msgspec.json.encode(detail).decode())
    (result,) = world.flush()
    assert (result.events, result.inserted, result.dead) == (1, 1, 0)
    (row,) = world.run(lambda c: usage_rows(c, "acme")).rows
    expected = {
        "id": "h1",
        "operation": "settle",
        "amount": 70,
        "model": "m1",
        "usage": {"model": "m1", "input_tokens": 5},
        "scopes": {"user": "u1"},
        "metadata": {"a": "1", "b": "2"},
        "late": False,
        "final": True,
        "grants": [{"id": "g1", "amount": 70}],
        "generation": 1,
        "seq": 1,
    }
    assert {name: row[name] for name in expected} == expected
    assert world.counters() == (70, 0, 0)
    assert world.balance("spent:acme") == 70
    assert world.balance("lent:acme:1") == 930
    world.assert_sound()


def test_a_batch_is_one_transfer_for_each_kind(world: World) -> None:
    account = world.funded()
    for number in range(20):
        account.debit(f"d{number}", 5)
    account.refund("r1", "d1")
    world.flush()
    rows = world.sql("SELECT kind, amount FROM transfers WHERE batch IS NOT NULL ORDER BY id")
    assert rows == [("usage", 100), ("refund", 5)]
    world.assert_sound()


def test_what_an_overdraft_charged_is_covered_by_the_next_grant(world: World) -> None:
    account = world.funded(amount=100, overdraft_limit=50)
    account.debit("d1", 140)
    world.flush()
    assert world.generation().overage == 40
    world.grant("acme", 1_000, "g2")
    world.sender.run_once()
    world.assert_sound()
    assert world.generation().overage == 0
    assert world.counters("g2") == (40, 0, 0)


def test_a_negative_adjustment_comes_back_to_available_when_its_event_is_flushed(
    world: World,
) -> None:
    world.funded()
    world.run(lambda c: add_adjustment(c, "acme", "a1", -300, "mistake"))
    assert world.balance("available:acme") == -300
    world.sender.run_once()
    world.assert_sound()
    assert world.balance("available:acme") == 0
    assert world.balance("source:adjustment") == 300
    assert world.counters() == (0, 0, 300)


def test_an_expired_grant_ends_in_the_ledger(world: World) -> None:
    world.funded()
    world.grant("acme", 500, "old", expires_at_ms=1)
    world.sender.run_once()
    world.assert_sound()
    assert world.counters("old") == (0, 500, 0)
    assert world.balance("expired:acme") == 500


def test_a_flush_that_dies_before_the_commit_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = world.funded()
    account.debit("d1", 10)

    def die(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(batches, "batch_hash", die)
        with pytest.raises(KeyboardInterrupt):
            world.flusher.run_once()
    assert world.sql("SELECT count(*) FROM usage_events") == [0]
    world.assert_sound()
    assert world.generation().spent == 10


def test_a_cursor_that_was_set_back_counts_nothing_twice(world: World) -> None:
    account = world.funded()
    for number in range(7):
        account.debit(f"d{number}", 5)
    world.flush()
    world.sql(
        "UPDATE shards SET cursor = '0-0', flushed_events = 0 WHERE last_batch > 0 RETURNING 1"
    )
    (result,) = world.flush()
    assert (result.events, result.inserted, result.replayed) == (7, 0, 7)
    assert world.generation().spent == 35
    world.assert_sound()


def test_a_call_that_ran_twice_is_charged_once_and_given_back(world: World) -> None:
    account = world.funded()
    (time,) = world.sql("SELECT (extract(epoch FROM now()) * 1000)::bigint")
    id = uuid7(time)
    account.debit(id, 30)
    world.flush()
    # The answer is lost, as after a loss of Redis: the repeat is executed.
    account.redis.delete(account.keys[6], account.keys[7])
    account.debit(id, 30)
    (result,) = world.flush()
    assert (result.inserted, result.duplicates) == (0, 1)
    assert account.balance()[2] == 940
    world.sender.run_once()
    assert account.balance()[2] == 970
    assert world.counters() == (30, 0, 0)
    world.assert_sound()


def test_a_call_that_ran_twice_within_one_batch_is_charged_once(world: World) -> None:
    account = world.funded()
    (time,) = world.sql("SELECT (extract(epoch FROM now()) * 1000)::bigint")
    account.debit(uuid7(time), 30)
    account.redis.delete(account.keys[6], account.keys[7])
    account.debit(uuid7(time), 30)
    (result,) = world.flush()
    assert (result.inserted, result.duplicates) == (1, 1)
    world.sender.run_once()
    world.assert_sound()
    assert account.balance()[2] == 970


def test_each_step_of_a_streamed_hold_is_its_own_event(world: World) -> None:
    account = world.funded()
    (time,) = world.sql("SELECT (extract(epoch FROM now()) * 1000)::bigint")
    id = uuid7(time)
    account.hold(id, 100)
    account.settle(id, 10, final=0)
    account.settle(id, 25, final=0)
    account.settle(id, 25)
    world.flush()
    rows = world.run(lambda c: usage_rows(c, "acme")).rows
    assert [(row["amount"], row["final"]) for row in rows] == [(0, True), (15, False), (10, False)]
    world.assert_sound()


def test_an_event_that_postgres_refuses_becomes_a_dead_letter_and_the_rest_is_posted(
    world: World,
) -> None:
    world.funded()
    for seq in range(1, 40):
        changes = {"detail": '{"usage": "\\ud800"}'} if seq in (7, 23) else {}
        world.write_event("acme", seq, **changes)
    (result,) = world.flush()
    assert (result.inserted, result.dead) == (37, 2)
    assert world.sql("SELECT seq, reason, amount FROM dead_letters ORDER BY id") == [
        (7, "refused", 10),
        (23, "refused", 10),
    ]
    assert world.balance("suspense") == 20
    assert world.generation().seq == 39
    assert world.wrong_lines().keys() >= {"no_dead_letters", "suspense_is_empty"}
    assert "sequence_has_no_gaps" not in world.wrong_lines()
    assert "conservation" not in world.wrong_lines()


def test_an_event_that_charges_more_than_its_grant_has_is_refused(world: World) -> None:
    world.funded(amount=100)
    world.write_event("acme", 1, amount=60)
    world.write_event("acme", 2, amount=60)
    world.write_event("acme", 3, amount=40)
    (result,) = world.flush()
    assert (result.inserted, result.dead) == (2, 1)
    assert world.generation().spent == 100
    (error,) = world.sql("SELECT error FROM dead_letters")
    assert "overspent" in error


@pytest.mark.parametrize("raw", [b"", b"nonsense", msgspec.msgpack.encode([2, "acme"])])
def test_an_entry_that_is_no_event_becomes_a_dead_letter(world: World, raw: bytes) -> None:
    world.funded().debit("d1", 10)
    (place,) = world.sql("SELECT shard, epoch FROM generations")
    world.client.xadd(keys.stream(*place), {"e": raw})
    (result,) = world.flush()
    assert (result.inserted, result.dead) == (1, 1)
    assert world.sql("SELECT reason, raw FROM dead_letters") == [("unreadable", raw)]


def shard_state(world: World) -> tuple[str, str | None]:
    (row,) = world.sql("SELECT state, cause FROM shards WHERE last_batch > 0")
    state, cause = row
    return state, cause


def test_a_gap_posts_every_event_and_gives_the_shard_up(world: World) -> None:
    world.funded()
    world.write_event("acme", 1)
    world.write_event("acme", 3)
    world.write_event("acme", 4)
    (result,) = world.flush()
    assert (result.inserted, result.dead) == (3, 0)
    assert shard_state(world) == ("suspect", "gap")
    assert (world.generation().seq, world.generation().spent) == (4, 30)


def test_another_event_with_a_number_that_was_used_gives_the_shard_up(world: World) -> None:
    world.funded()
    world.write_event("acme", 1)
    world.write_event("acme", 2)
    world.flush()
    world.write_event("acme", 2, id="other", amount=7)
    (result,) = world.flush()
    assert (result.inserted, result.dead) == (1, 0)
    assert shard_state(world) == ("suspect", "regression")
    assert world.generation().spent == 27


def test_sidecars_are_not_told_of_events_that_may_be_missing_before(world: World) -> None:
    account = world.funded()
    account.debit("d1", 10)
    world.flush()
    known = world.client.get(keys.cursor(account.shard))
    account.debit("d2", 10)
    world.client.xdel(keys.stream(account.shard, 1), account.trail[1])
    account.debit("d3", 10)
    (result,) = world.flush()
    assert result.inserted == 1
    assert world.client.get(keys.cursor(account.shard)) == known
    assert shard_state(world) == ("suspect", "stream_short")


def test_a_stream_that_is_gone_gives_the_shard_up_although_nothing_new_comes(world: World) -> None:
    account = world.funded()
    account.debit("d1", 10)
    world.flush()
    world.client.delete(keys.stream(account.shard, 1))
    world.flush()
    assert shard_state(world) == ("suspect", "stream_short")


def test_nothing_is_read_from_another_redis_process_than_the_ledger_names(world: World) -> None:
    account = world.funded()
    account.debit("d1", 10)
    world.sql("UPDATE shards SET run_id = 'another' RETURNING 1")
    assert world.flush() == []
    with pytest.raises(RedisChanged):
        world.flusher.flush_shard(account.shard)
    assert world.generation().seq == 0
    assert shard_states(world) == ["open"]


def shard_states(world: World) -> list[str]:
    states: list[str] = world.sql("SELECT DISTINCT state FROM shards")
    return states


def test_a_cursor_that_was_not_published_is_said_again(world: World) -> None:
    account = world.funded()
    account.debit("d1", 10)
    world.flush()
    known = world.client.get(keys.cursor(account.shard))
    world.client.delete(keys.cursor(account.shard))
    # Another worker has published nothing yet.
    World(world.engine, world.client).flush()
    assert world.client.get(keys.cursor(account.shard)) == known


def test_an_event_of_an_unknown_generation_is_kept(world: World) -> None:
    world.funded()
    world.write_event("acme", 1, generation=9)
    world.flush()
    assert world.sql("SELECT reason FROM dead_letters") == ["unknown_generation"]


def test_text_that_postgres_cannot_hold_is_no_reason_to_lose_a_charge(world: World) -> None:
    world.funded()
    detail = msgspec.json.encode({"reason": "a\0b", "metadata": {"k": "v\0"}}).decode()
    world.write_event("acme", 1, detail=detail)
    (result,) = world.flush()
    assert result.dead == 0
    (row,) = world.run(lambda c: usage_rows(c, "acme")).rows
    assert (row["reason"], row["metadata"]) == ("a\ufffdb", {"k": "v\ufffd"})
    world.assert_sound()


def test_two_flushers_share_the_shards_and_post_each_event_once(
    engine: Engine, redis_client: redis.Redis
) -> None:
    worlds = [World(engine, redis_client, batch_events=50) for _ in range(2)]
    accounts = [worlds[0].funded(f"acct-{n}", 10_000) for n in range(8)]
    for number in range(100):
        for account in accounts:
            account.debit(f"d{number}", 1 + number % 3)
    threads = [threading.Thread(target=world.flush) for world in worlds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worlds[0].assert_sound()
    assert worlds[0].sql("SELECT count(*), sum(amount) FROM usage_events") == [(800, 1592)]


def test_a_shard_that_another_flusher_has_is_left_to_it(world: World) -> None:
    account = world.funded()
    account.debit("d1", 10)
    with world.engine.begin() as connection:
        connection.execute(sa.text("SELECT FROM shards FOR UPDATE"))
        with pytest.raises(ShardBusy):
            world.flusher.flush_shard(account.shard)
        assert world.flusher.run_once() == []
    world.assert_sound()


def test_a_connection_lost_in_mid_flush_is_a_passing_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = world.funded()
    account.debit("d1", 10)
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in%'"

    def cut(*_: object) -> bytes:
        world.sql(kill)
        return b""

    with monkeypatch.context() as patched:
        patched.setattr(batches, "rows_digest", cut)
        with pytest.raises(OperationalError):
            world.flusher.run_once()
    world.assert_sound()
    assert world.generation().spent == 10


def test_a_shard_that_cannot_be_flushed_holds_up_no_other(world: World) -> None:
    stuck = world.funded("acme")
    other = world.funded("bmce")
    assert stuck.shard != other.shard
    stuck.debit("d", 10)
    other.debit("d", 10)
    with world.engine.begin() as elsewhere:
        elsewhere.execute(sa.text("SELECT FROM generations WHERE account = 'acme' FOR UPDATE"))
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            world.flusher.run_once()
        assert world.generation("bmce").seq == 1
        assert world.generation("acme").seq == 0
    world.assert_sound()
    assert world.generation("acme").seq == 1


def test_the_cursor_is_published_and_flushed_events_are_trimmed(
    engine: Engine, redis_client: redis.Redis
) -> None:
    world = World(engine, redis_client)
    world.flusher = Flusher(engine, world.nodes, world.metrics, keep_seconds=0)
    account = world.funded(amount=10_000)
    for number in range(1_000):
        account.debit(f"d{number}", 1)
    world.flush()
    (row,) = world.sql("SELECT cursor, epoch FROM shards WHERE last_batch > 0")
    assert account.redis.get(keys.cursor(account.shard)) == f"{row[1]} {row[0]}".encode()
    assert account.redis.xlen(keys.stream(account.shard, row[1])) < 1_000
    world.assert_sound()


def test_what_the_ledger_has_only_just_got_stays_in_the_stream_however_old_it_is(
    engine: Engine, redis_client: redis.Redis
) -> None:
    world = World(engine, redis_client)
    world.flusher = Flusher(engine, world.nodes, world.metrics, keep_seconds=60)
    account = world.funded(amount=10_000)
    stream = keys.stream(account.shard, 1)
    for number in range(1_000):
        account.debit(f"d{number}", 1)
    # They are an hour old: the ledger was away for so long.
    entries = account.redis.xrange(stream)
    account.redis.delete(stream)
    account.redis.xgroup_create(stream, "ledger", id="0", mkstream=True)
    for number, (_, fields) in enumerate(entries, 1):
        account.redis.xadd(stream, fields, id=f"{number}-1")
    world.flush()
    world.flush()
    assert account.redis.xlen(stream) == 1_000
    world.flusher = Flusher(engine, world.nodes, world.metrics, keep_seconds=0)
    world.flush()
    assert account.redis.xlen(stream) < 1_000
    world.assert_sound()


def test_lists_are_filtered_and_paged(world: World) -> None:
    account = world.funded()
    for number in range(5):
        model = f"m{number % 2}"
        detail = {"model": model, "scopes": {"user": f"u{number % 2}"}}
        account.debit(f"d{number}", 1, detail=msgspec.json.encode(detail).decode())
    world.flush()
    first = world.run(lambda c: usage_rows(c, "acme", limit=3))
    rest = world.run(lambda c: usage_rows(c, "acme", limit=3, cursor=first.next_cursor))
    assert [row["id"] for row in first.rows + rest.rows] == ["d4", "d3", "d2", "d1", "d0"]
    assert rest.next_cursor is None
    odd = world.run(lambda c: usage_rows(c, "acme", filters=Filters(model="m1", scope="user:u1")))
    assert [row["id"] for row in odd.rows] == ["d3", "d1"]
    at_ms = first.rows[0]["at_ms"]
    later = world.run(lambda c: usage_rows(c, "acme", filters=Filters(since_ms=at_ms + 1)))
    assert later.rows == []


def test_an_id_is_explained_by_its_events_transfers_and_grants(world: World) -> None:
    account = world.funded()
    account.hold("h1", 50)
    account.settle("h1", 20)
    world.flush()
    account.refund("r1", "h1", detail='{"of": "h1", "reason": "bad answer"}')
    world.flush()
    found = world.run(lambda c: explain(c, "acme", "h1"))
    assert [(event["operation"], event["amount"]) for event in found.events] == [
        ("settle", 20),
        ("refund", -20),
    ]
    assert [move["kind"] for move in found.transfers] == ["usage", "refund"]
    assert [grant["id"] for grant in found.grants] == ["g1"]
    nothing = world.run(lambda c: explain(c, "acme", "never"))
    assert (nothing.events, nothing.transfers, nothing.grants) == ([], [], [])


def test_a_ledger_that_was_behind_tells_how_it_caught_up(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "persistence.catching_up")
    calm = CatchingUp(world.metrics, behind_seconds=0.001)
    monkeypatch.setattr(world.flusher, "_catching_up", calm)
    account = world.funded()
    for number in range(50):
        account.debit(f"d{number}", 1)
    world.flush()
    assert [record.getMessage() for record in caplog.records] == [
        "the ledger is behind: events wait in Redis",
        "the ledger has caught up",
    ]
    assert caplog.records[-1].__dict__["events"] == 50
    assert metric(world.metrics.unflushed_events) == 0
