"""Redis away, slow, emptied or unsafe: no decision without it, and all well once it is back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from sidecar import keys
from sidecar.dev.embedded import RedisServer
from tests.integration.meter_server import (
    Ledger,
    Meter,
    Sidecar,
    error_of,
    eventually,
    running,
)

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("hold", {"id": "h1", "amount": 1}),
    ("settle", {"id": "unknown", "amount": 1}),
    ("release", {"id": "unknown"}),
    ("extend", {"id": "running", "amount": 200}),
    ("debit", {"id": "d1", "amount": 1}),
    ("refund", {"id": "r1", "of": "running"}),
    ("check", {"amount": 1}),
]


class Redis:
    """A Redis of the test's own, which it may stop, pause and start again."""

    def __init__(self, folder: Path) -> None:
        self._server = RedisServer(folder)
        self._server.start()
        self.url = self._server.url
        self.client = redis.Redis.from_url(self.url)

    def pause(self) -> None:
        self._server.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._server.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()

    def close(self) -> None:
        self.client.close()
        if self._server.process.poll() is None:
            self.resume()
        self._server.stop()


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    made = Redis(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


@pytest.fixture
def own_sidecar(own_redis: Redis) -> Iterator[Sidecar]:
    own_redis.client.flushall()
    with running(own_redis.url, redis_timeout_ms="500") as started:
        yield started


@pytest.fixture
def acme(own_redis: Redis, own_sidecar: Sidecar) -> Iterator[Meter]:
    """A sidecar in front of a Redis of its own, with an account that has a running hold."""
    ledger = Ledger(own_redis.client)
    ledger.open_shards()
    ledger.account("acme", 1_000)
    own_sidecar.wait_ready()
    with own_sidecar.client() as client:
        meter = Meter(client, ledger, own_sidecar)
        meter.accept("hold", account="acme", id="running", amount=100)
        yield meter


def assert_unavailable(response: httpx.Response) -> None:
    assert response.status_code == 503, response.text
    error = error_of(response)
    assert (error["code"], error["type"]) == ("store_unavailable", "server_error")
    assert int(response.headers["retry-after"]) >= 1


def reopened(meter: Meter) -> None:
    """Open the shards again as a worker does after a loss: the account has all it had."""
    meter.ledger.open_shards(epoch=2)
    meter.ledger.account("acme", 1_000)
    meter.sidecar.wait_ready()


def assert_nothing_is_decided(meter: Meter) -> None:
    for verb, fields in CALLS:
        assert_unavailable(meter.post(verb, account="acme", **fields))
    assert_unavailable(meter.http.get("/v1/balance?account=acme"))
    member = {"op": "hold", "account": "acme", "id": "h1", "amount": 1}
    (result,) = meter.accept("batch", operations=[member])["results"]
    assert (result["http"], result["error"]["code"]) == (503, "store_unavailable")
    headers = {"X-Credit-Account": "acme", "X-Credit-Id": "h1", "X-Credit-Amount": "1"}
    assert_unavailable(meter.http.get("/v1/gate", headers=headers))
    assert meter.http.get("/healthz").status_code == 200
    assert meter.http.get("/metrics").status_code == 200
    ready = meter.http.get("/readyz")
    assert ready.status_code == 503
    assert int(ready.headers["retry-after"]) >= 1
    assert ready.json()["reason"]


def test_redis_that_is_paused_is_not_waited_for(acme: Meter, own_redis: Redis) -> None:
    own_redis.pause()
    try:
        assert_nothing_is_decided(acme)
        wrong = acme.post("hold", account="acme", id="h 1", amount=1)
        assert wrong.status_code == 422
    finally:
        own_redis.resume()
    acme.sidecar.wait_ready()
    # Whether the calls were carried out is unknown; their repeats find out, and charge once.
    answer = acme.accept("debit", account="acme", id="d1", amount=1)
    again = acme.accept("debit", account="acme", id="d1", amount=1)
    assert again == answer | {"replayed": True}
    charged = [event for event in acme.ledger.events("acme") if event["id"] == "d1"]
    assert len(charged) == 1


def test_batch_does_not_wait_for_each_member_of_an_account(acme: Meter, own_redis: Redis) -> None:
    members = [{"op": "debit", "account": "acme", "id": f"d{n}", "amount": 1} for n in range(99)]
    malformed = {"op": "debit", "account": "acme", "id": "d", "amount": -1}
    own_redis.pause()
    try:
        results = acme.accept("batch", operations=[*members, malformed])["results"]
    finally:
        own_redis.resume()
    assert [result["http"] for result in results] == [503] * 99 + [422]


def test_redis_that_is_down_and_comes_back(acme: Meter, own_redis: Redis) -> None:
    own_redis.stop()
    try:
        assert_nothing_is_decided(acme)
    finally:
        own_redis.start()
    assert acme.http.get("/readyz").status_code == 503, "the Redis is another process"
    reopened(acme)
    answer = acme.accept("settle", account="acme", id="running", amount=40)
    assert (answer["available"], answer["late"]) == (960, True)


def test_forgotten_scripts_are_loaded_again(acme: Meter, own_redis: Redis) -> None:
    for number in range(3):
        own_redis.client.script_flush()
        acme.accept("debit", account="acme", id=f"d{number}", amount=1)
    assert acme.available("acme") == 897


def test_shard_without_a_fence_is_not_decided_for(acme: Meter, own_redis: Redis) -> None:
    shard = keys.shard_of("acme", 4)
    own_redis.client.delete(keys.fence(shard))
    eventually(lambda: acme.http.get("/readyz").status_code == 503)
    assert_nothing_is_decided(acme)
    reopened(acme)
    assert acme.available("acme") == 1_000


def test_shard_of_another_epoch_is_not_decided_for(acme: Meter, own_redis: Redis) -> None:
    shard = keys.shard_of("acme", 4)
    own_redis.client.hset(keys.fence(shard), "run_id", "another")
    eventually(lambda: acme.http.get("/readyz").status_code == 503)
    before = acme.ledger.dump()
    for verb, fields in CALLS:
        assert_unavailable(acme.post(verb, account="acme", **fields))
    acme.ledger.assert_unchanged(before)
    reopened(acme)
    assert acme.available("acme") == 1_000


def test_shard_is_never_decided_in_an_older_epoch(acme: Meter, own_redis: Redis) -> None:
    reopened(acme)
    acme.ledger.open_shards(epoch=1)
    eventually(lambda: acme.http.get("/readyz").status_code == 503)
    assert_unavailable(acme.post("check", account="acme", amount=1))
    assert "later epochs" in acme.http.get("/readyz").json()["reason"]


def test_account_of_another_epoch_is_fenced(acme: Meter, own_redis: Redis) -> None:
    own_redis.client.hset(acme.ledger.keys_of("acme")[0], "epoch", 7)
    before = acme.ledger.dump()
    for verb, fields in CALLS:
        assert_unavailable(acme.post(verb, account="acme", **fields))
    assert_unavailable(acme.http.get("/v1/balance?account=acme"))
    acme.ledger.assert_unchanged(before)


def test_emptied_redis_never_says_that_an_account_does_not_exist(
    acme: Meter, own_redis: Redis
) -> None:
    own_redis.client.flushall()
    for verb, fields in CALLS:
        assert_unavailable(acme.post(verb, account="acme", **fields))
    eventually(lambda: acme.http.get("/readyz").status_code == 503)
    assert_nothing_is_decided(acme)


def test_sidecar_starts_before_redis_and_is_ready_once_it_is_there(tmp_path: Path) -> None:
    own = Redis(tmp_path / "late")
    own.stop()
    try:
        with running(own.url) as sidecar, sidecar.client() as client:
            assert client.get("/readyz").status_code == 503
            assert_unavailable(client.post("/v1/check", json={"account": "acme", "amount": 1}))
            own.start()
            assert client.get("/readyz").status_code == 503
            Ledger(own.client).open_shards()
            sidecar.wait_ready()
    finally:
        own.close()


# A Redis that would forget credits ----------------------------------------------------------------

UNSAFE = [
    ("appendonly", "no", "appendonly"),
    ("maxmemory-policy", "allkeys-lru", "allkeys-lru"),
    ("maxmemory-policy", "volatile-ttl", "volatile-ttl"),
]


@pytest.mark.parametrize(("option", "value", "named"), UNSAFE)
def test_redis_that_may_forget_is_refused(
    own_redis: Redis, option: str, value: str, named: str
) -> None:
    safe = {"appendonly": "yes", "maxmemory-policy": "noeviction"}[option]
    own_redis.client.config_set(option, value)
    try:
        sidecar = Sidecar(own_redis.url)
        sidecar.launch()
        assert sidecar.process.wait(20) != 0
        assert named in sidecar.log
        assert "CREDITS_ALLOW_UNSAFE_REDIS" in sidecar.log
        sidecar.stop()
        with running(own_redis.url, allow_unsafe_redis="true") as allowed:
            Ledger(own_redis.client).open_shards()
            allowed.wait_ready()
    finally:
        own_redis.client.config_set(option, safe)


def test_redis_that_becomes_unsafe_is_no_longer_decided_on(tmp_path: Path) -> None:
    own = Redis(tmp_path / "safe")
    unsafe = RedisServer(tmp_path / "safe", options=["maxmemory-policy", "allkeys-lru"])
    try:
        with running(own.url) as sidecar, sidecar.client() as client:
            ledger = Ledger(own.client)
            ledger.open_shards()
            ledger.account("acme", 1_000)
            sidecar.wait_ready()
            own.stop()
            unsafe.start()
            own.client.ping()

            def reason() -> str:
                return str(client.get("/readyz").json().get("reason"))

            eventually(lambda: "allkeys-lru" in reason())
            assert_unavailable(client.post("/v1/check", json={"account": "acme", "amount": 1}))
            assert client.get("/healthz").status_code == 200
    finally:
        unsafe.stop()
        own.close()


def test_sidecar_that_is_told_to_stop_finishes_and_exits_cleanly(own_redis: Redis) -> None:
    sidecar = Sidecar(own_redis.url).start()
    os.kill(sidecar.process.pid, signal.SIGTERM)
    assert sidecar.process.wait(20) == 0
    assert "Traceback" not in sidecar.log
    sidecar.stop()
