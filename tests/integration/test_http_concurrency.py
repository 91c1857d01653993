"""64 clients at once exhaust one account exactly, through one sidecar and through two."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.meter_server import PATIENT, Ledger, Meter, Sidecar, running

CLIENTS = 64
GRANTED = 100_000
UNIT = 70  # does not divide what was granted: some is left that is less than a unit


@pytest.fixture(scope="module")
def second(meter_redis_url: str) -> Iterator[Sidecar]:
    with running(meter_redis_url, **PATIENT) as started:
        yield started


@pytest.fixture(params=["one sidecar", "two sidecars"])
def sidecars(
    request: pytest.FixtureRequest, sidecar: Sidecar, second: Sidecar, ledger: Ledger
) -> list[Sidecar]:
    used = [sidecar] if request.param == "one sidecar" else [sidecar, second]
    for each in used:
        each.wait_ready()
    return used


def together(sidecars: list[Sidecar], work: object) -> None:
    """Run `work(client, number)` in 64 threads, each with a connection of its own."""
    assert callable(work)
    barrier = threading.Barrier(CLIENTS)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            with sidecars[number % len(sidecars)].client() as client:
                client.get("/healthz")
                barrier.wait()
                work(client, number)
        except BaseException as failure:
            failures.append(failure)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def read(sidecars: list[Sidecar], ledger: Ledger) -> Meter:
    return Meter(sidecars[0].client(), ledger, sidecars[0])


def test_debits_exhaust_an_account_exactly(sidecars: list[Sidecar], ledger: Ledger) -> None:
    ledger.account("acme", 60_000, 39_999, 1)
    acknowledged: dict[str, int] = {}

    def spend(client: httpx.Client, number: int) -> None:
        chance = random.Random(number)
        mine: list[str] = []
        for count in range(10_000):
            # Now and then an id is sent again: its own, or one of another client.
            if mine and chance.random() < 0.2:
                id = chance.choice([*mine, f"d-{chance.randrange(CLIENTS)}-{count % 20}"])
            else:
                id = f"d-{number}-{count}"
            fields = {"account": "acme", "id": id, "amount": UNIT}
            response = client.post("/v1/debit", json=fields)
            if response.status_code == 402:
                return
            assert response.status_code == 200, response.text
            assert response.json()["charged"] == UNIT
            assert response.json()["available"] >= 0
            mine.append(id)
            acknowledged[id] = UNIT

    together(sidecars, spend)
    meter = read(sidecars, ledger)
    with meter.http:
        assert sum(acknowledged.values()) == GRANTED - GRANTED % UNIT
        assert meter.available("acme") == GRANTED % UNIT
        events = ledger.events("acme")
        assert sorted(event["id"] for event in events) == sorted(acknowledged)
        assert sum(event["amount"] for event in events) == sum(acknowledged.values())
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_holds_never_set_aside_more_than_there_is(sidecars: list[Sidecar], ledger: Ledger) -> None:
    ledger.account("acme", GRANTED)
    charged: dict[str, int] = {}

    def call(client: httpx.Client, number: int) -> None:
        chance = random.Random(number)
        for count in range(10_000):
            fields = {"account": "acme", "id": f"h-{number}-{count}"}
            held = client.post("/v1/hold", json=fields | {"amount": 500})
            if held.status_code == 402:
                return
            assert held.json()["available"] >= 0
            cost = chance.randrange(200, 501)
            verb, more = ("settle", {"amount": cost})
            if chance.random() < 0.2:
                verb, more, cost = "release", {}, 0
            ended = [client.post(f"/v1/{verb}", json=fields | more) for _ in range(2)]
            assert [answer.status_code for answer in ended] == [200, 200]
            assert [answer.json()["replayed"] for answer in ended] == [False, True]
            charged[fields["id"]] = cost

    together(sidecars, call)
    meter = read(sidecars, ledger)
    with meter.http:
        balance = meter.balance("acme")
        assert balance["held"] == 0
        assert balance["available"] == GRANTED - sum(charged.values())
        assert sum(event["amount"] for event in ledger.events("acme")) == sum(charged.values())


def test_one_request_sent_by_all_at_once_is_carried_out_once(
    sidecars: list[Sidecar], ledger: Ledger
) -> None:
    ledger.account("acme", GRANTED)
    answers: list[dict[str, Any]] = []

    def spend(client: httpx.Client, _: int) -> None:
        fields = {"account": "acme", "id": "the-same", "amount": UNIT}
        answers.append(client.post("/v1/debit", json=fields).json())

    together(sidecars, spend)
    assert sorted(answer["replayed"] for answer in answers) == [False] + [True] * (CLIENTS - 1)
    assert {answer["available"] for answer in answers} == {GRANTED - UNIT}
    assert len(ledger.events("acme")) == 1
