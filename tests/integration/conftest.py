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
def sidecar(redis_url: str) -> Iterator[Sidecar]:
    """The sidecar of this pytest process; it is patient, so that a busy machine fails no test."""
    with running(redis_url, **PATIENT) as started:
        yield started


@pytest.fixture(scope="session")
def guarded_sidecar(redis_url: str) -> Iterator[Sidecar]:
    """One with an API key and an address where credits are sold."""
    with running(redis_url, api_key=API_KEY, top_up_url=TOP_UP_URL, **PATIENT) as started:
        yield started


@pytest.fixture
def ledger(redis_client: redis.Redis) -> Ledger:
    """An empty Redis whose shards are open."""
    ledger = Ledger(redis_client)
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
