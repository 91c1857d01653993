"""The audit: zero when all is well, and a line for each thing that can be wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pytest
import redis
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from persistence.audit import DriftSampler, audit
from persistence.audit_sql import LINES
from persistence.compare import Comparer, Difference, Place, Snapshot
from persistence.grants import add_adjustment
from persistence.recovery import rebuild
from sidecar.metrics import WorkerMetrics
from tests.integration.ledger_world import World, metric


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    """A world in which a little of everything has happened, all flushed."""
    world = World(engine, redis_client)
    account = world.funded(overdraft_limit=500)
    world.grant("acme", 40, "old", expires_at_ms=1)
    world.run(lambda c: add_adjustment(c, "acme", "a1", -30, "mistake"))
    world.sender.run_once()
    account.hold("h1", 100)
    account.hold("h2", 100)
    account.settle("h1", 60)
    account.debit("d1", 25)
    account.refund("r1", "d1", 5, detail='{"of": "d1"}')
    world.flush()
    return world


def tamper(world: World, *statements: str) -> None:
    """Change what nobody may change, as someone with all privileges could."""
    with world.engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            connection.execute(sa.text(statement))


def test_every_line_is_zero_when_all_is_well(world: World) -> None:
    report = world.audit()
    assert report.is_ok, [line for line in report.lines if not line.is_ok]
    found = json.loads(report.to_json())
    assert (found["ok"], found["discrepancies"]) == (True, 0)
    assert {line["invariant"] for line in found["lines"]} == {"I1", "I2", "I3", "I4", "I5", "I6"}
    lines = {line["name"]: line for line in found["lines"]}
    assert lines["redis_is_ledger"]["checked"] == 1


def test_the_audit_needs_no_redis_for_the_ledgers_lines(world: World) -> None:
    said: list[str] = []
    report = audit(world.engine, None, progress=said.append)
    assert report.is_ok
    assert said == [line.name for line in report.lines]


_LOST_LONG_AGO = """
WITH lost AS (UPDATE shards SET epoch = epoch + 1 WHERE last_batch > 0 RETURNING shard, epoch)
INSERT INTO recoveries (shard, epoch, cause, noticed_ms) SELECT shard, epoch, 'rebuild', 1 FROM lost
"""
_SILENT_SIDECAR = """
INSERT INTO sidecars (id, name, boot, state, registered_ms, seen_ms)
VALUES (gen_random_uuid(), 'one', 'b', 'alive', 1, 1)
"""
_NEVER_HANDED_IN = f"""
WITH made AS ({_SILENT_SIDECAR} RETURNING id)
INSERT INTO drains (shard, epoch, sidecar, created_ms) SELECT 0, 1, id, 1 FROM made
"""
_OPEN_TOO_EARLY = f"""
WITH made AS ({_SILENT_SIDECAR} RETURNING id)
INSERT INTO drains (shard, epoch, sidecar, created_ms) SELECT 0, 1, id, 99999999999999 FROM made
"""
_REOPENED_TOO_EARLY = """
WITH old AS (UPDATE generations SET gen = 2 RETURNING shard, epoch)
INSERT INTO recoveries (shard, epoch, cause, noticed_ms) SELECT shard, epoch, 'rebuild', 1 FROM old
"""
_PAYMENT = """
INSERT INTO stripe_payments (payment_intent, account, credits, is_paid, livemode, granted,
    created_ms, updated_ms) VALUES ('pi_1', 'acme', 1000, {is_paid}, false, {granted}, 1, 1)
"""
_PAID_WITHOUT_GRANT = _PAYMENT.format(is_paid=True, granted=0)
_GRANTED_IN_NAME = _PAYMENT.format(is_paid=True, granted=1000)
_GRANTED_WITHOUT_PAYMENT = f"""
UPDATE grants SET reference = 'pi_1' WHERE id = 'g1';
{_PAYMENT.format(is_paid=False, granted=1000)}
"""
_CLAWED_BACK_IN_NAME = f"""
UPDATE grants SET reference = 'pi_1' WHERE id = 'g1';
{_PAYMENT.format(is_paid=True, granted=1000)};
UPDATE stripe_payments SET clawed_back = 10
"""
_CLAWED_BACK_FROM_NOBODY = """
INSERT INTO transfers (at_ms, debit_account, credit_account, amount, kind, reference, account)
SELECT 1, d.no, c.no, 1, 'clawback', 'pi_9', 'acme' FROM ledger_accounts d, ledger_accounts c
WHERE d.name = 'available:acme' AND c.name = 'source:paid'
"""
_CLAWED_BACK_ELSEWHERE = """
INSERT INTO transfers (at_ms, debit_account, credit_account, amount, kind, reference, account)
SELECT 1, d.no, c.no, 1, 'clawback', 'pi_1', 'acme' FROM ledger_accounts d, ledger_accounts c
WHERE d.name = '{debit}' AND c.name = '{credit}'
"""
_MORE_GRANTED_AND_CLAWED_BACK_IN_NAME = f"""
UPDATE grants SET reference = 'pi_1' WHERE id = 'g1';
{_PAYMENT.format(is_paid=True, granted=1000)};
UPDATE stripe_payments SET clawed_back = 10, granted = 1010, credits = 1010
"""
_ALLOWED_IN_NAME = """
INSERT INTO allowances (subscription_item, starts_ms, account, subscription, stripe_price, quantity,
    ends_ms, expires_ms, due_ms, rollover_cap, target, granted, postings, invoice, created_ms,
    updated_ms)
VALUES ('si_1', 1, 'acme', 'sub_1', 'price_1', 1, 2, 2, 1, 0, 10, 10, 1, 'in_1', 1, 1)
"""
_ALLOWED_TOO_OFTEN = f"""
{_ALLOWED_IN_NAME};
UPDATE allowances SET granted = 0, postings = 0;
UPDATE grants SET category = 'allowance', id = 'si_1:1:1' WHERE id = 'g1'
"""
_ALLOWED_TO_ANOTHER = f"""
{_ALLOWED_IN_NAME};
UPDATE allowances SET account = 'other', granted = 1000, target = 1000;
UPDATE grants SET category = 'allowance', id = 'si_1:1:1' WHERE id = 'g1'
"""
_SUSPENDED = "UPDATE ledger_accounts SET balance = balance + 1 WHERE kind = 'suspense'"
_DEAD_LETTER = """
INSERT INTO dead_letters (shard, stream_id, raw, reason, error, created_ms)
VALUES (0, '1-1', '\\x00', 'unreadable', 'not an event', 1)
"""
_OVERSPENT = """
ALTER TABLE generations DROP CONSTRAINT generations_not_overspent;
UPDATE generations SET spent = lent + overage + 1
"""
_MOVED_BALANCE = "UPDATE ledger_accounts SET balance = balance + 1 WHERE kind = 'lent'"


_CHANGES = [
    (_MOVED_BALANCE, "balances_are_transfers"),
    (_MOVED_BALANCE, "ledger_sums_to_zero"),
    (_MOVED_BALANCE, "conservation"),
    ("UPDATE transfers SET amount = amount + 1 WHERE kind = 'usage'", "batches_hash_chain"),
    ("UPDATE transfers SET amount = amount + 1 WHERE kind = 'grant'", "grants_have_sources"),
    ("UPDATE accounts SET granted_total = granted_total + 1", "granted_totals"),
    ("UPDATE usage_events SET amount = amount + 1 WHERE id = 'd1'", "generations_are_usage"),
    ("UPDATE usage_events SET amount = amount + 1 WHERE id = 'd1'", "batches_hash_chain"),
    ("DELETE FROM usage_events WHERE id = 'd1'", "sequence_has_no_gaps"),
    ("UPDATE usage_events SET seq = seq + 1", "sequence_has_no_gaps"),
    ("DELETE FROM usage_events WHERE id = 'd1'", "refunds_within_charges"),
    ("DELETE FROM usage_events", "batches_hash_chain"),
    ("UPDATE usage_events SET id = 'd9' WHERE id = 'd1'", "batches_hash_chain"),
    ("UPDATE usage_events SET allocations = '{1,24,0,1}' WHERE id = 'd1'", "grants_are_usage"),
    ("UPDATE generations SET spent = spent - 1", "generations_are_usage"),
    ("UPDATE generations SET lent = lent + 1", "lent_is_accounted"),
    ("UPDATE grants SET used = used - 1 WHERE id = 'g1'", "grants_are_usage"),
    ("UPDATE generations SET state = 'closed'", "closed_generations_are_empty"),
    ("UPDATE generations SET seq = seq + 1", "sequence_has_no_gaps"),
    ("UPDATE generations SET applied_refill_no = 1", "refills_in_order"),
    ("UPDATE refills SET applied_ms = NULL, created_ms = 1", "refills_arrive"),
    ("UPDATE usage_events SET operation = 'settle', final = true, id = 'h1'", "holds_end_once"),
    ("DELETE FROM flush_batches", "batches_hash_chain"),
    ("UPDATE flush_batches SET hash = '\\x00'", "batches_hash_chain"),
    ("UPDATE shards SET state = 'suspect' WHERE shard = 0", "no_shard_is_away_too_long"),
    ("UPDATE shards SET is_fenced = false WHERE shard = 0", "no_shard_is_away_too_long"),
    (_LOST_LONG_AGO, "no_account_closes_too_long"),
    (_NEVER_HANDED_IN, "journals_are_confirmed"),
    (_OPEN_TOO_EARLY, "nothing_is_reopened_early"),
    (_REOPENED_TOO_EARLY, "nothing_is_reopened_early"),
    (_SILENT_SIDECAR, "no_sidecar_is_silent"),
    ("UPDATE shards SET last_hash = '\\x00' WHERE last_batch > 0", "batches_hash_chain"),
    (_PAID_WITHOUT_GRANT, "top_ups_are_payments"),
    (_GRANTED_IN_NAME, "top_ups_are_payments"),
    (_GRANTED_WITHOUT_PAYMENT, "top_ups_are_payments"),
    (_CLAWED_BACK_IN_NAME, "top_ups_are_payments"),
    (_CLAWED_BACK_FROM_NOBODY, "top_ups_are_payments"),
    (_MORE_GRANTED_AND_CLAWED_BACK_IN_NAME, "top_ups_are_payments"),
    (_CLAWED_BACK_ELSEWHERE.format(debit="available:acme", credit="source:promo"),
     "grants_have_sources"),
    (_CLAWED_BACK_ELSEWHERE.format(debit="spent:acme", credit="source:paid"),
     "grants_have_sources"),
    (_ALLOWED_IN_NAME, "allowances_are_grants"),
    (_ALLOWED_TOO_OFTEN, "allowances_are_grants"),
    (_ALLOWED_TO_ANOTHER, "allowances_are_grants"),
    (_SUSPENDED, "suspense_is_empty"),
    (_DEAD_LETTER, "no_dead_letters"),
    (_OVERSPENT, "not_overspent"),
]  # fmt: skip


def test_each_line_has_a_change_that_makes_it_wrong() -> None:
    assert {line for _, line in _CHANGES} == {name for name, *_ in LINES}


@pytest.mark.parametrize(("statement", "line"), _CHANGES)
def test_a_change_by_hand_is_found(world: World, statement: str, line: str) -> None:
    tamper(world, *statement.split(";"))
    report = audit(world.engine, None)
    found = {found.name: found for found in report.lines}[line]
    assert found.discrepancies > 0
    assert found.samples
    assert not report.is_ok


@pytest.mark.parametrize("change", [-1, 1])
def test_redis_that_differs_by_one_is_found(world: World, change: int) -> None:
    account = world.put("acme")
    account.redis.hincrby(account.keys[0], "available", change)
    assert world.wrong_lines() == {"redis_is_ledger": 1}


def test_an_account_that_redis_lost_is_found(world: World) -> None:
    account = world.put("acme")
    account.redis.delete(account.keys[0])
    assert world.wrong_lines() == {"redis_is_ledger": 1}


def test_events_that_nobody_flushes_are_found_after_the_wait(world: World) -> None:
    world.put("acme").debit("d2", 1)
    assert world.wrong_lines() == {"events_reach_ledger": 1}


def test_a_refill_that_is_still_on_its_way_is_no_difference(world: World) -> None:
    world.grant("acme", 77, "late")
    world.put("other")
    assert world.wrong_lines() == {}


def test_only_the_named_accounts_are_compared(world: World) -> None:
    account = world.put("acme")
    world.funded("other", 5)
    account.redis.hincrby(account.keys[0], "available", 1)
    report = audit(world.engine, world.nodes, accounts=["other"], wait_s=0)
    assert report.is_ok


def test_the_audit_is_exact_while_traffic_goes_on(world: World) -> None:
    accounts = [world.funded(f"acct-{number}", 1_000_000) for number in range(4)]
    stopping = threading.Event()
    other = World(world.engine, world.client)

    def spend() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            account = accounts[number % 4]
            account.hold(f"h{number}", 9)
            account.settle(f"h{number}", number % 12)
            if number % 50 == 0:
                other.grant(account.name, 3, f"more-{number}")
                other.sender.run_once()

    def flush() -> None:
        while not stopping.is_set():
            other.flusher.run_once()

    threads = [threading.Thread(target=spend), threading.Thread(target=flush)]
    for thread in threads:
        thread.start()
    try:
        reports = [world.audit(wait_s=20) for _ in range(5)]
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    wrong = [line for report in reports for line in report.lines if not line.is_ok]
    assert wrong == []
    world.sender.run_once()
    world.assert_sound()


def test_drift_is_sampled_in_turn_and_shown(world: World) -> None:
    for number in range(3):
        world.funded(f"acct-{number}", 10)
    metrics = WorkerMetrics(CollectorRegistry())
    comparer = Comparer(world.engine, world.nodes, wait_s=0)
    sampler = DriftSampler(world.engine, comparer, metrics)
    assert sampler.run_once() == 4
    assert metric(metrics.drift) == 0
    account = world.put("acct-1")
    account.redis.hincrby(account.keys[0], "available", 5)
    sampler.run_once()
    assert metric(metrics.drift) == 5
    assert metric(metrics.drift_accounts) == 4


def test_a_redis_that_is_ahead_of_the_ledger_is_given_up(world: World) -> None:
    sampler = DriftSampler(
        world.engine, Comparer(world.engine, world.nodes, wait_s=0), world.metrics
    )
    account = world.put("acme")
    sampler.run_once()
    assert world.sql("SELECT shard FROM shards WHERE state <> 'open'") == []
    # As after a fail-over of Postgres that lost the commit of this one.
    account.status("active", 900, refill_no=world.generation().refill_no + 1)
    sampler.run_once()
    found = world.sql("SELECT shard, cause FROM shards WHERE state <> 'open'")
    assert found == [(account.shard, "refill_ahead")]


def test_an_account_that_is_closing_is_not_compared(world: World) -> None:
    rebuild(world.engine)
    world.opener.run_once()
    report = {line.name: line for line in world.audit().lines}
    assert report["redis_is_ledger"].checked == 0
    assert all(line.is_ok for line in report.values())


def test_what_was_given_up_while_it_was_compared_is_no_difference(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparer = Comparer(world.engine, world.nodes, wait_s=0)
    look = comparer._snapshots

    def lose_first(places: Sequence[Place]) -> tuple[list[Snapshot], list[Difference]]:
        world.client.flushall()
        found = look(places)
        assert found[1] != []
        world.opener.run_once()
        return found

    monkeypatch.setattr(comparer, "_snapshots", lose_first)
    (comparison,) = comparer.chunks()
    assert comparison.differences == []


def test_duplicates_and_restores_are_part_of_the_comparison(world: World) -> None:
    account = world.put("acme")
    (time,) = world.sql("SELECT (extract(epoch FROM now()) * 1000)::bigint")
    id = f"{time:012x}"
    id = f"{id[:8]}-{id[8:]}-7000-8000-000000000001"
    account.debit(id, 30)
    account.redis.delete(account.keys[6], account.keys[7])
    account.debit(id, 30)
    assert world.wrong_lines() == {"events_reach_ledger": 1}
    world.flush()
    assert world.wrong_lines() == {}
    world.sender.run_once()
    assert world.wrong_lines() == {}
