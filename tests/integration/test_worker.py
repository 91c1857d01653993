"""`credit-sidecar worker` as a process: its probes tell the truth, and it ends when told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import monotonic, sleep

import httpx
import pytest
import redis

from tests.conftest import free_port

START_SECONDS = 60.0

Starter = Callable[..., "Worker"]


class Worker:
    """One worker process on a port of its own."""

    def __init__(self, **variables: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        environment = {name: v for name, v in os.environ.items() if not name.startswith("CREDITS_")}
        environment |= {"CREDITS_WORKER_LISTEN": self.address, **variables}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "worker"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def get(self, path: str) -> httpx.Response:
        """Ask its listener, waiting until there is one."""
        deadline = monotonic() + START_SECONDS
        while True:
            try:
                return httpx.get(f"http://{self.address}{path}", timeout=10)
            except httpx.TransportError:
                assert self.process.poll() is None, self.error()
                assert monotonic() < deadline
                sleep(0.05)

    def wait_for(self, path: str, status: int) -> httpx.Response:
        """Wait until a path answers with a status."""
        deadline = monotonic() + START_SECONDS
        while (answer := self.get(path)).status_code != status:
            assert monotonic() < deadline, answer.text
            sleep(0.05)
        return answer

    def stop(self) -> int:
        """Tell it to end and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_SECONDS)

    def error(self) -> str:
        """What it logged; it must have ended."""
        self.process.wait(START_SECONDS)
        assert self.process.stderr
        return self.process.stderr.read()


@pytest.fixture
def start() -> Iterator[Starter]:
    """Start workers that end with the test."""
    started: list[Worker] = []

    def starter(**variables: str) -> Worker:
        started.append(Worker(**variables))
        return started[-1]

    yield starter
    for worker in started:
        worker.process.kill()
        worker.process.wait()
        if worker.process.stderr:
            worker.process.stderr.close()


def test_a_worker_is_ready_when_its_jobs_have_run_and_ends_with_success(
    start: Starter, postgres_url: str, redis_url: str, redis_client: redis.Redis
) -> None:
    assert redis_client.dbsize() == 0
    worker = start(CREDITS_POSTGRES_URL=postgres_url, CREDITS_REDIS_URL=redis_url)
    worker.wait_for("/readyz", 200)
    assert worker.get("/healthz").status_code == 200
    metrics = worker.get("/metrics").text
    assert "credits_unflushed_events 0.0" in metrics
    assert "credits_drift_microcredits" in metrics
    assert "credits_audit_age_seconds" in metrics
    assert worker.stop() == 0


def test_a_worker_without_redis_is_alive_but_not_ready(start: Starter, postgres_url: str) -> None:
    worker = start(
        CREDITS_POSTGRES_URL=postgres_url,
        CREDITS_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0",
        CREDITS_SHUTDOWN_GRACE_MS="1000",
    )
    answer = worker.get("/readyz")
    assert answer.status_code == 503
    assert "jobs" in answer.json()["reason"]
    assert worker.get("/healthz").status_code == 200
    assert worker.stop() == 0


def test_a_worker_refuses_a_schema_that_is_not_its_own(
    start: Starter, empty_postgres_url: str, redis_url: str
) -> None:
    worker = start(CREDITS_POSTGRES_URL=empty_postgres_url, CREDITS_REDIS_URL=redis_url)
    error = worker.error()
    assert worker.process.returncode == 1
    assert "run `credit-sidecar migrate`" in error
    assert "Traceback" not in error


def test_a_worker_without_its_ledger_says_so(start: Starter, redis_url: str) -> None:
    worker = start(
        CREDITS_POSTGRES_URL=f"postgresql://postgres@127.0.0.1:{free_port()}/credits",
        CREDITS_REDIS_URL=redis_url,
    )
    error = worker.error()
    assert worker.process.returncode == 1
    assert "The ledger cannot be reached" in error
    assert "Traceback" not in error


def test_two_workers_share_one_ledger(
    start: Starter, postgres_url: str, redis_url: str, redis_client: redis.Redis
) -> None:
    assert redis_client.dbsize() == 0
    urls = {"CREDITS_POSTGRES_URL": postgres_url, "CREDITS_REDIS_URL": redis_url}
    workers = [start(**urls), start(**urls)]
    for worker in workers:
        worker.wait_for("/readyz", 200)
    assert [worker.stop() for worker in workers] == [0, 0]


def test_a_worker_refuses_a_redis_that_evicts(
    start: Starter, postgres_url: str, redis_url: str, redis_client: redis.Redis
) -> None:
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        urls = {"CREDITS_POSTGRES_URL": postgres_url, "CREDITS_REDIS_URL": redis_url}
        worker = start(**urls)
        error = worker.error()
        assert worker.process.returncode not in (0, None)
        assert "maxmemory-policy is allkeys-lru" in error
        assert "Traceback" not in error
        assert redis_client.dbsize() == 0
        start(**urls, CREDITS_ALLOW_UNSAFE_REDIS="true").wait_for("/readyz", 200)
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
