"""Accounts that Redis does not have: asked of a worker, who is played by the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from sidecar import keys
from tests.integration.meter_server import (
    PATIENT,
    Answerer,
    Ledger,
    Meter,
    error_of,
    eventually,
    running,
)

HOLD = {"id": "h1", "amount": 100}


@pytest.fixture
def answerer(meter: Meter) -> Iterator[Answerer]:
    with Answerer(meter.ledger) as started:
        wait_until_heard(meter.http)
        started.asked.clear()
        yield started


def wait_until_heard(client: httpx.Client) -> None:
    """Wait until a sidecar hears what workers answer."""
    probe = {"account": "probe", "amount": 1}
    eventually(lambda: client.post("/v1/check", json=probe).status_code == 404, "an answer")


def test_account_that_a_worker_loads_is_decided_on(meter: Meter, answerer: Answerer) -> None:
    answerer.outcomes["cold"] = "loaded"
    answer = meter.accept("hold", account="cold", **HOLD)
    assert (answer["available"], answer["replayed"]) == (900, False)
    assert answerer.asked == ["cold"]
    assert meter.available("cold") == 900
    assert answerer.asked == ["cold"]


@pytest.mark.parametrize("verb", ["hold", "settle", "release", "extend", "debit", "check"])
def test_account_that_the_ledger_does_not_know_is_not_found(
    meter: Meter, answerer: Answerer, verb: str
) -> None:
    fields = {"account": "nobody", **HOLD}
    wanted = {"check": ("account", "amount"), "release": ("account", "id")}.get(verb, fields)
    status, error = meter.refuse(verb, **{name: fields[name] for name in wanted})
    assert (status, error["code"]) == (404, "account_not_found")
    assert answerer.asked == ["nobody"]


def test_balance_of_an_account_that_the_ledger_does_not_know_is_not_found(
    meter: Meter, answerer: Answerer
) -> None:
    response = meter.http.get("/v1/balance?account=nobody")
    assert (response.status_code, error_of(response)["code"]) == (404, "account_not_found")
    headers = {"X-Credit-Account": "nobody", "X-Credit-Id": "h1", "X-Credit-Amount": "1"}
    assert meter.http.get("/v1/gate", headers=headers).status_code == 404


@pytest.mark.parametrize("outcome", ["silent", "lost", "nonsense"])
def test_account_without_a_clear_answer_is_never_not_found(
    meter: Meter, answerer: Answerer, outcome: str
) -> None:
    account = f"cold-{outcome}"
    answerer.outcomes[account] = outcome
    response = meter.post("hold", account=account, **HOLD)
    assert (response.status_code, error_of(response)["code"]) == (503, "store_unavailable")
    assert int(response.headers["retry-after"]) >= 1
    answerer.outcomes[account] = "loaded"
    assert meter.accept("hold", account=account, **HOLD)["available"] == 900


def test_account_that_is_said_to_be_loaded_but_is_not_there_is_unavailable(
    meter: Meter, answerer: Answerer
) -> None:
    answerer.outcomes["absent"] = "loaded"
    answerer.load = lambda _: None
    response = meter.post("hold", account="absent", **HOLD)
    assert (response.status_code, error_of(response)["code"]) == (503, "store_unavailable")


def test_no_worker_is_waited_for_only_briefly(meter_redis_url: str, ledger: Ledger) -> None:
    with running(meter_redis_url) as sidecar, sidecar.client() as client:
        sidecar.wait_ready()
        started = time.monotonic()
        response = client.post("/v1/hold", json={"account": "cold", **HOLD})
        seconds = time.monotonic() - started
    assert response.status_code == 503
    assert 0.2 <= seconds < 5.0


def test_what_nobody_answers_does_not_stay_in_redis(meter: Meter) -> None:
    meter.post("hold", account="cold", **HOLD)
    remaining_ms = meter.ledger.redis.pttl(keys.ASK)
    assert isinstance(remaining_ms, int)
    assert 0 < remaining_ms <= 2_000


def test_those_who_ask_for_the_same_account_ask_once(meter: Meter, answerer: Answerer) -> None:
    answerer.outcomes["cold"] = "loaded"
    members = [{"op": "hold", "account": "cold", "id": f"h{n}", "amount": 10} for n in range(50)]
    statuses: list[int] = []

    def ask(member: dict[str, object]) -> None:
        fields = {name: value for name, value in member.items() if name != "op"}
        statuses.append(meter.post("hold", **fields).status_code)

    threads = [threading.Thread(target=ask, args=(member,)) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 50
    assert meter.available("cold") == 500
    # A second round is possible when the first answer came before the last one asked.
    assert answerer.asked == ["cold"]


def test_flood_of_unknown_accounts_does_not_harm_others(meter: Meter) -> None:
    meter.ledger.account("acme", 10_000)
    stop = threading.Event()
    seen: list[int] = []

    def flood(number: int) -> None:
        with meter.sidecar.client() as client:
            round_no = 0
            while not stop.is_set():
                round_no += 1
                members = [
                    {"op": "check", "account": f"stranger-{number}-{round_no}-{n}", "amount": 1}
                    for n in range(100)
                ]
                answer = client.post("/v1/batch", json={"operations": members}).json()
                seen.extend(result["http"] for result in answer["results"])

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100):
        meter.accept("hold", account="acme", id=f"h{number}", amount=100)
    stop.set()
    for thread in threads:
        thread.join()
    assert meter.available("acme") == 0
    assert set(seen) == {503}


def test_worker_that_answers_another_sidecar_is_not_mixed_up(
    meter: Meter, ledger: Ledger, meter_redis_url: str, answerer: Answerer
) -> None:
    answerer.outcomes |= {"cold": "loaded"}
    with running(meter_redis_url, **PATIENT) as other:
        other.wait_ready()
        with other.client() as client:
            wait_until_heard(client)
            response = client.post("/v1/hold", json={"account": "cold", **HOLD})
            assert response.status_code == 200
            response = client.post("/v1/hold", json={"account": "nobody", **HOLD})
            assert response.status_code == 404
    assert meter.accept("hold", account="cold", **HOLD)["replayed"] is True


def test_sidecar_hears_workers_again_after_its_connection_was_cut(
    meter: Meter, answerer: Answerer
) -> None:
    meter.ledger.redis.client_kill_filter(_type="pubsub")
    wait_until_heard(meter.http)
    answerer.outcomes["cold"] = "loaded"
    assert meter.accept("hold", account="cold", **HOLD)["available"] == 900
