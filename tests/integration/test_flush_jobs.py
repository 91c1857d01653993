"""The worker's jobs in their threads: events and refills arrive, errors pass, the end is clean."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import redis
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from persistence.bell import RefillBell
from persistence.grants import add_adjustment
from persistence.jobs import Job, WorkerJobs
from sidecar import keys
from sidecar.metrics import WorkerMetrics
from tests.integration.ledger_world import World, metric
from tests.integration.simulated_sidecar import SimulatedSidecar


@dataclass(frozen=True)
class Settings:
    flush_interval_ms: int = 20
    flush_batch_events: int = 100
    stream_keep_seconds: int = 60
    allow_unsafe_redis: bool = True
    sidecar_lost_seconds: int = 15
    sidecar_dead_seconds: int = 0
    audit_interval_seconds: int = 1


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


@pytest.fixture
def jobs(world: World) -> Iterator[WorkerJobs]:
    made = worker(world)
    made.open_shards()
    made.start()
    yield made
    made.stop(5)


def worker(world: World, settings: Settings = Settings()) -> WorkerJobs:
    return WorkerJobs(world.engine, world.nodes, world.metrics, settings)


def wait_until(is_done: Callable[[], bool], seconds: float = 20.0) -> None:
    pause, rounds = threading.Event(), int(seconds / 0.02)
    assert any(is_done() or pause.wait(0.02) for _ in range(rounds)), "waited in vain"


def test_what_the_ledger_decides_reaches_redis_and_what_is_used_comes_back(
    world: World, jobs: WorkerJobs
) -> None:
    account = world.put("acme")
    world.grant("acme", 500)
    wait_until(lambda: account.balance()[:3] == ["ok", "active", 500])
    for number in range(250):
        account.debit(f"d{number}", 1)
    wait_until(lambda: world.generation().spent == 250)
    world.run(lambda c: add_adjustment(c, "acme", "a1", -100, "mistake"))
    wait_until(lambda: world.generation().returned == 100)
    assert jobs.failing == []
    assert world.audit(wait_s=5).is_ok


def test_stopping_flushes_what_is_left(world: World) -> None:
    account = world.funded()
    slow = worker(world, Settings(flush_interval_ms=60_000, flush_batch_events=10))
    slow.start()
    for number in range(95):
        account.debit(f"d{number}", 1)
    assert slow.stop(20)
    assert world.generation().spent == 95
    assert not any(job.is_alive() for job in slow.jobs)


def test_two_workers_do_the_work_of_one(world: World, jobs: WorkerJobs) -> None:
    second = worker(World(world.engine, world.client))
    second.open_shards()
    second.start()
    accounts = [world.put(f"acct-{number}") for number in range(6)]
    for account in accounts:
        world.grant(account.name, 1_000)
    for account in accounts:
        wait_until(lambda: account.balance()[:3] == ["ok", "active", 1_000])  # noqa: B023
    for number in range(600):
        accounts[number % 6].debit(f"d{number}", 3)
    wait_until(lambda: world.sql("SELECT sum(spent) FROM generations") == [1_800])
    assert second.stop(10)
    assert world.audit(wait_s=5).is_ok


def test_after_a_loss_every_account_is_back_with_what_it_has(
    world: World, jobs: WorkerJobs
) -> None:
    sidecar = SimulatedSidecar(world)
    sidecar.beat()
    wait_until(sidecar.is_confirmed)
    account = world.put("acme")
    world.grant("acme", 500)
    wait_until(lambda: account.balance()[:3] == ["ok", "active", 500])
    for number in range(50):
        account.debit(f"d{number}", 1)
        sidecar.acknowledge(account)
    world.client.flushall()
    wait_until(lambda: world.client.hget(keys.fence(account.shard), "draining") == b"1")
    sidecar.beat()
    wait_until(sidecar.is_confirmed)
    sidecar.hand_in()
    # Nobody asks for it: the worker reopens it all the same.
    wait_until(lambda: world.generation().gen == 2)
    wait_until(lambda: world.account().balance()[:3] == ["ok", "active", 450])
    wait_until(lambda: world.client.hget(keys.fence(account.shard), "draining") == b"0")
    sidecar.beat("leaving")
    wait_until(lambda: sidecar.state == "gone")
    assert jobs.failing == []
    assert world.audit(wait_s=5).is_ok


def test_a_job_outlives_its_errors_and_says_so(world: World) -> None:
    metrics = WorkerMetrics(CollectorRegistry())
    outcomes: Iterator[int | None] = iter([0, None, None, 1, 0])

    def work() -> int:
        outcome = next(outcomes)
        if outcome is None:
            raise ConnectionError("away")
        return outcome

    job = Job("trial", work, metrics, interval_s=7.0, is_eager=True)
    assert job.round() == 7.0
    assert 0 < job.round() <= 0.2
    failing_after_one = job.is_failing
    assert 0 < job.round() <= 0.8
    assert metric(metrics.job_errors) == 2
    assert job.round() == 0.0
    assert (failing_after_one, job.is_failing) == (True, False)
    assert job.round() == 7.0


def test_the_bell_rings_when_a_refill_is_written(world: World) -> None:
    bell = RefillBell(world.engine)
    bell.wait(0.01)
    heard = threading.Event()

    def listen() -> None:
        bell.wait(20)
        heard.set()

    thread = threading.Thread(target=listen)
    thread.start()
    world.put("acme")
    assert heard.wait(10)
    thread.join()
    bell.close()


def test_a_bell_that_cannot_listen_waits_and_listens_later(world: World) -> None:
    bell = RefillBell(world.engine)
    bell.wait(0.01)
    world.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    )
    bell.wait(0.01)
    bell.wait(0.01)
    with world.engine.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        assert connection.scalar(sa.text(query)) == 1
    bell.close()
