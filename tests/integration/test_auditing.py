"""The worker's own audit: in turn, into the metrics, and told once for each change."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest
import redis
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from persistence import auditing
from persistence.audit import audit
from persistence.audit_sql import LINES
from persistence.auditing import Auditor, Turn
from sidecar.metrics import WorkerMetrics
from tests.integration.ledger_world import World, metric
from tests.integration.meter_server import eventually

_INTERVAL = 900.0


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    world = World(engine, redis_client)
    world.funded().debit("d1", 10)
    world.flush()
    return world


class Worker:
    """An auditor with a clock and metrics of its own."""

    def __init__(self, world: World) -> None:
        self.now = 1_000_000.0
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.auditor = Auditor(
            world.engine,
            world.nodes,
            self.metrics,
            interval_s=_INTERVAL,
            clock=lambda: self.now,
        )

    def close(self) -> None:
        self.auditor.close()

    def after(self, seconds: float) -> int:
        self.now += seconds
        return self.auditor.run_once()

    def wrong(self) -> dict[str, float]:
        samples = next(iter(self.metrics.audit_discrepancies.collect())).samples
        return {sample.labels["line"]: sample.value for sample in samples if sample.value}


@pytest.fixture
def worker(world: World) -> Iterator[Worker]:
    with contextlib.closing(Worker(world)) as made:
        yield made


def drift(world: World, amount: int) -> None:
    account = world.put("acme")
    account.redis.hincrby(account.keys[0], "available", amount)


def test_the_first_audit_comes_soon_and_the_next_after_the_interval(worker: Worker) -> None:
    assert worker.after(0) == 0
    assert worker.after(30) == 1
    assert worker.after(_INTERVAL - 1) == 0
    assert worker.after(1) == 1


def test_an_audit_shows_each_line_and_when_it_was_clean(worker: Worker) -> None:
    worker.after(30)
    samples = next(iter(worker.metrics.audit_discrepancies.collect())).samples
    named = {sample.labels["line"] for sample in samples}
    assert named == {name for name, *_ in LINES} | {"redis_is_ledger", "events_reach_ledger"}
    assert worker.wrong() == {}
    assert metric(worker.metrics.audit_last_clean) == worker.now
    assert metric(worker.metrics.audit_seconds) > 0
    worker.now += 77
    assert metric(worker.metrics.audit_age) == 77


def test_the_age_counts_from_the_start_before_the_first_clean_audit(
    world: World, worker: Worker
) -> None:
    drift(world, 5)
    worker.after(0)
    assert metric(worker.metrics.audit_age) == 0
    assert worker.after(30) == 1
    assert metric(worker.metrics.audit_age) == 30
    assert metric(worker.metrics.audit_last_clean) == 0


def test_what_is_wrong_is_critical_once_for_each_change(
    world: World, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "persistence.auditing")
    drift(world, 5)
    worker.after(30)
    assert worker.wrong() == {"redis_is_ledger": 1}
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.__dict__["line"] == "redis_is_ledger"
    assert '"account":"acme"' in record.__dict__["samples"][0]
    worker.after(_INTERVAL)
    assert len(caplog.records) == 1
    drift(world, -5)
    worker.after(_INTERVAL)
    assert worker.wrong() == {}
    assert [record.getMessage() for record in caplog.records[1:]] == [
        "a line of the audit is zero again"
    ]


def test_one_of_two_workers_audits_and_the_other_takes_over(world: World) -> None:
    with contextlib.closing(Worker(world)) as first, contextlib.closing(Worker(world)) as second:
        assert [first.after(30), second.after(30)] == [1, 0]
        assert [first.after(_INTERVAL), second.after(_INTERVAL)] == [1, 0]
        assert metric(second.metrics.audit_age) == 0
        first.close()
        assert second.after(5) == 1


def test_a_turn_is_lost_with_its_session(world: World) -> None:
    first, second = Turn(world.engine), Turn(world.engine)
    assert [first.take(), second.take(), first.take()] == [True, False, True]
    world.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_locks"
        " WHERE locktype = 'advisory' AND objid = 3 AND classid = :k AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())",
        k=auditing.TURN_LOCK >> 32,
    )
    eventually(second.take, "the end of the session")
    assert not first.take()
    second.leave()
    assert first.take()
    first.leave()


def test_an_audit_that_failed_is_not_repeated_at_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise redis.ConnectionError("away")

    with monkeypatch.context() as patched:
        patched.setattr(auditing, "audit", fail)
        with pytest.raises(redis.ConnectionError):
            worker.after(30)
        assert worker.after(59) == 0
    assert worker.after(1) == 1


def test_a_stopping_worker_does_not_finish_its_audit(worker: Worker) -> None:
    worker.auditor.stop()
    assert worker.after(30) == 0
    assert metric(worker.metrics.audit_last_clean) == 0


def test_an_audit_holds_up_nobody(world: World) -> None:
    updated: list[int] = []

    def update(_: str) -> None:
        with world.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL lock_timeout = '1s'"))
            changed = connection.execute(sa.text("UPDATE shards SET last_batch = last_batch"))
            updated.append(changed.rowcount)

    assert audit(world.engine, world.nodes, progress=update).is_ok
    assert len(updated) > len(LINES)


def test_a_line_that_takes_too_long_is_ended(world: World) -> None:
    with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
        audit(world.engine, None, line_s=0.001)
