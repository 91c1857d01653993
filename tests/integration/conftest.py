"""The listeners that tests talk to, and for each test an empty Redis and ledger behind them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import redis
from sqlalchemy import Engine

from tests.integration.control_client import control_listener, unchanged
from tests.integration.meter_server import (
    API_KEY,
    PATIENT,
    TOP_UP_URL,
    Ledger,
    Meter,
    Sidecar,
    running,
)


@pytest.fixture(scope="session")
def meter_redis_url(redis_url: str) -> str:
    """A database of its own for sidecars that outlive a test: workers are not to see them."""
    assert redis_url.endswith("db=0")
    return redis_url.removesuffix("0") + "1"


@pytest.fixture(scope="session")
def lonely_redis_url(redis_url: str) -> str:
    """A database in which no sidecar outlives a test: shards may be lost there."""
    return redis_url.removesuffix("0") + "2"


@pytest.fixture
def lonely_ledger(lonely_redis_url: str) -> Iterator[Ledger]:
    """That database, emptied, with its shards open."""
    with redis.Redis.from_url(lonely_redis_url) as client:
        client.flushdb()
        ledger = Ledger(client)
        ledger.open_shards()
        yield ledger


@pytest.fixture
def meter_redis(meter_redis_url: str) -> Iterator[redis.Redis]:
    """A client of that database, which is empty."""
    with redis.Redis.from_url(meter_redis_url) as client:
        client.flushdb()
        yield client


@pytest.fixture(scope="session")
def sidecar(meter_redis_url: str) -> Iterator[Sidecar]:
    """The sidecar of this pytest process; it is patient, so that a busy machine fails no test."""
    with running(meter_redis_url, **PATIENT) as started:
        yield started


@pytest.fixture(scope="session")
def guarded_sidecar(meter_redis_url: str) -> Iterator[Sidecar]:
    """One with an API key and an address where credits are sold."""
    settings = {"api_key": API_KEY, "top_up_url": TOP_UP_URL, **PATIENT}
    with running(meter_redis_url, **settings) as started:
        yield started


@pytest.fixture
def ledger(meter_redis: redis.Redis) -> Ledger:
    """An empty Redis whose shards are open."""
    ledger = Ledger(meter_redis)
    ledger.open_shards()
    return ledger


@pytest.fixture
def meter(sidecar: Sidecar, ledger: Ledger) -> Iterator[Meter]:
    """The sidecar, ready to decide, with no account yet."""
    sidecar.wait_ready()
    with sidecar.client() as client:
        yield Meter(client, ledger, sidecar)


@pytest.fixture
def guarded(guarded_sidecar: Sidecar, ledger: Ledger) -> Iterator[Meter]:
    """The sidecar with an API key, ready to decide; its client sends the key."""
    guarded_sidecar.wait_ready()
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with guarded_sidecar.client(headers=headers) as client:
        yield Meter(client, ledger, guarded_sidecar)


@pytest.fixture
def control(postgres_url: str, redis_client: redis.Redis, redis_url: str) -> Iterator[httpx.Client]:
    """A client of a control listener whose ledger has the account `acme`."""
    with control_listener(postgres_url, redis_url) as client:
        client.put("/v1/accounts/acme", json={"name": "Acme"})
        yield client


@pytest.fixture
def nothing_changes(control: httpx.Client, engine: Engine) -> Iterator[None]:
    """Assert that what the test does changes nothing."""
    with unchanged(control, engine):
        yield
