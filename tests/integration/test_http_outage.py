"""Redis away: what an account's outage allowance grants, and how it is made good afterwards.

1. Within the allowance holds and debits are granted, by each sidecar; beyond it, and without one,
   they are not. A hold counts with its amount, then with its charge.
2. Settles and releases of holds that this sidecar acknowledged are always accepted.
3. Repeats get the first answer, other requests under the id are refused, while Redis is away and
   afterwards.
4. Once the shard decides again everything is charged, once and in its order, whatever there is.
5. It all survives the end of the sidecar, before and after it was made good.
6. A journal that is full and a Redis that is nearly full begin nothing new, and end what runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sidecar import keys
from sidecar.dev.embedded import RedisServer
from tests.integration.meter_server import (
    PATIENT,
    SHARDS,
    Ledger,
    Meter,
    error_of,
    eventually,
    running,
)

ALLOWANCE = 100


class Outage:
    """A sidecar whose shards are taken away, and given back in the same epoch or another."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._fences: dict[str, Any] = {}

    def begin(self) -> None:
        """Let no shard be open any more."""
        for shard in range(SHARDS):
            name = keys.fence(shard)
            self._fences[name] = self.meter.ledger.redis.hgetall(name)
            self.meter.ledger.redis.delete(name)
        eventually(lambda: self.meter.http.get("/readyz").status_code == 503)

    def end(self) -> None:
        """Open the shards again as they were; everything is made good then."""
        for name, fields in self._fences.items():
            self.meter.ledger.redis.hset(name, mapping=fields)
        self.wait_good()

    def end_with_a_loss(self, amount: int) -> None:
        """Open them in the next epoch, with what the ledger has of the account."""
        self.meter.ledger.open_shards(self.meter.ledger.epoch + 1)
        self.meter.ledger.account("acme", amount, allowance=ALLOWANCE)
        self.wait_good()

    def wait_good(self) -> None:
        """Wait until nothing is pending."""
        self.meter.sidecar.wait_ready()
        eventually(lambda: self.meter.sidecar.metric("credits_degraded_pending") == 0)


@pytest.fixture
def acme(lonely_redis_url: str, lonely_ledger: Ledger) -> Iterator[Meter]:
    """A sidecar of the test's own that knows an account of 1,000 with an allowance of 100."""
    with running(lonely_redis_url, **PATIENT) as sidecar, sidecar.client() as client:
        lonely_ledger.account("acme", 1_000, allowance=ALLOWANCE)
        lonely_ledger.account("poor", 1_000)
        sidecar.wait_ready()
        meter = Meter(client, lonely_ledger, sidecar)
        meter.accept("check", account="acme", amount=1)
        meter.accept("check", account="poor", amount=1)
        yield meter


@pytest.fixture
def outage(acme: Meter) -> Outage:
    return Outage(acme)


def charges(meter: Meter) -> list[tuple[str, str, int, int]]:
    """Return operation, id, amount and flags of the account's events."""
    return [
        (event["operation"], event["id"], event["amount"], event["flags"])
        for event in meter.ledger.events("acme")
    ]


def refusal(meter: Meter, verb: str, **fields: Any) -> str:
    """Return the code with which a call is refused."""
    return str(error_of(meter.post(verb, account="acme", **fields))["code"])


def test_holds_and_debits_are_granted_within_the_allowance(acme: Meter, outage: Outage) -> None:
    outage.begin()
    held = acme.accept("hold", account="acme", id="h", amount=60)
    assert (held["amount"], held["available"], held["degraded"]) == (60, 40, True)
    debited = acme.accept("debit", account="acme", id="d", amount=30)
    assert (debited["charged"], debited["available"], debited["degraded"]) == (30, 10, True)
    assert refusal(acme, "debit", id="d2", amount=11) == "store_unavailable"
    assert refusal(acme, "hold", id="h2", amount=11) == "store_unavailable"
    part = acme.accept("hold", account="acme", id="h3", amount=50, partial=True)
    assert (part["amount"], part["partial"], part["available"]) == (10, True, 0)
    assert refusal(acme, "hold", id="h4", amount=5, partial=True) == "store_unavailable"
    check = acme.accept("check", account="acme", amount=1)
    assert (check["allowed"], check["degraded"]) == (False, True)
    # What a hold does not use is there again.
    acme.accept("release", account="acme", id="h3")
    acme.accept("settle", account="acme", id="h", amount=20)
    assert acme.accept("check", account="acme", amount=50)["allowed"]
    assert not acme.accept("check", account="acme", amount=51)["allowed"]


def test_an_account_without_an_allowance_gets_none(acme: Meter, outage: Outage) -> None:
    outage.begin()
    for verb, fields in (
        ("hold", {"id": "h", "amount": 1}),
        ("debit", {"id": "d", "amount": 1}),
        ("check", {"amount": 1}),
    ):
        response = acme.post(verb, account="poor", **fields)
        assert error_of(response)["code"] == "store_unavailable"
    assert refusal(acme, "refund", id="r", of="d") == "store_unavailable"


def test_everything_is_made_good_in_its_order(acme: Meter, outage: Outage) -> None:
    acme.accept("hold", account="acme", id="before", amount=200)
    acme.accept("hold", account="acme", id="released", amount=100)
    outage.begin()
    acme.accept("hold", account="acme", id="h", amount=60)
    acme.accept("debit", account="acme", id="d", amount=30)
    settled = acme.accept("settle", account="acme", id="before", amount=150)
    assert (settled["charged"], settled["released"], settled["degraded"]) == (150, 50, True)
    released = acme.accept("release", account="acme", id="released")
    assert (released["released"], released["degraded"]) == (100, True)
    acme.accept("settle", account="acme", id="h", amount=50)
    outage.end()
    assert charges(acme) == [
        ("debit", "d", 30, 6), ("settle", "before", 150, 6), ("settle", "h", 50, 7),
    ]  # fmt: skip
    assert acme.balance("acme")["available"] == 1_000 - 30 - 150 - 50
    assert acme.balance("acme")["held"] == 0


def test_it_is_made_good_in_a_new_epoch_too(acme: Meter, outage: Outage) -> None:
    acme.accept("hold", account="acme", id="before", amount=200)
    outage.begin()
    acme.accept("debit", account="acme", id="d", amount=30)
    acme.accept("settle", account="acme", id="before", amount=10, final=False)
    acme.accept("settle", account="acme", id="before", amount=150, final=False)
    outage.end_with_a_loss(1_000)
    assert [charge[:3] for charge in charges(acme)] == [
        ("debit", "d", 30), ("settle", "before", 10), ("settle", "before", 140),
    ]  # fmt: skip
    settled = acme.accept("settle", account="acme", id="before", amount=160)
    assert (settled["charged"], settled["available"]) == (160, 810)


def test_it_may_take_the_account_below_zero_by_the_allowance(acme: Meter, outage: Outage) -> None:
    acme.accept("debit", account="acme", id="all", amount=1_000)
    outage.begin()
    acme.accept("debit", account="acme", id="d", amount=ALLOWANCE)
    outage.end()
    assert acme.available("acme") == -ALLOWANCE
    # And the allowance can be used again the next time.
    outage.begin()
    acme.accept("debit", account="acme", id="d2", amount=ALLOWANCE)


def test_a_hold_that_was_granted_meanwhile_is_settled_afterwards(
    acme: Meter, outage: Outage
) -> None:
    outage.begin()
    acme.accept("hold", account="acme", id="h", amount=60)
    acme.accept("hold", account="acme", id="abandoned", amount=10)
    outage.end()
    assert acme.available("acme") == 1_000
    settled = acme.accept("settle", account="acme", id="h", amount=70)
    assert (settled["charged"], settled["available"], settled["late"]) == (70, 930, True)
    assert "degraded" not in settled
    released = acme.accept("release", account="acme", id="abandoned")
    assert (released["released"], released["available"]) == (10, 930)


def test_repeats_get_the_first_answer_and_others_are_refused(acme: Meter, outage: Outage) -> None:
    acme.accept("hold", account="acme", id="before", amount=200)
    outage.begin()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("hold", {"id": "h", "amount": 60}),
        ("debit", {"id": "d", "amount": 30}),
        ("settle", {"id": "before", "amount": 150}),
    ]
    answers = [acme.accept(verb, account="acme", **fields) for verb, fields in calls]
    for _ in range(2):
        for (verb, fields), answer in zip(calls, answers, strict=True):
            again = acme.accept(verb, account="acme", **fields)
            assert again == answer | {"replayed": True}
        assert refusal(acme, "debit", id="d", amount=31) == "id_conflict"
        assert refusal(acme, "hold", id="d", amount=30) == "id_conflict"
        assert refusal(acme, "settle", id="before", amount=151) == "hold_settled"
        assert refusal(acme, "release", id="before") == "hold_settled"
        outage.end()
    assert [charge[1] for charge in charges(acme)] == ["d", "before"]


def test_a_hold_is_extended_within_the_allowance(acme: Meter, outage: Outage) -> None:
    acme.accept("hold", account="acme", id="h", amount=50)
    outage.begin()
    extended = acme.accept("extend", account="acme", id="h", amount=150)
    assert (extended["amount"], extended["available"], extended["degraded"]) == (150, 0, True)
    assert refusal(acme, "extend", id="h", amount=151) == "store_unavailable"
    assert refusal(acme, "extend", id="h", amount=149) == "invalid_request"
    acme.accept("settle", account="acme", id="h", amount=140)
    outage.end()
    assert acme.available("acme") == 860


def test_a_settle_below_what_was_charged_is_refused(acme: Meter, outage: Outage) -> None:
    acme.accept("hold", account="acme", id="h", amount=50)
    acme.accept("settle", account="acme", id="h", amount=20, final=False)
    outage.begin()
    assert refusal(acme, "settle", id="h", amount=19) == "invalid_request"
    assert acme.accept("settle", account="acme", id="h", amount=20)["charged"] == 20


def test_it_survives_the_end_of_the_sidecar_before_it_is_made_good(
    acme: Meter, outage: Outage
) -> None:
    acme.accept("hold", account="acme", id="before", amount=200)
    outage.begin()
    debited = acme.accept("debit", account="acme", id="d", amount=30)
    acme.accept("settle", account="acme", id="before", amount=150)
    acme.sidecar.kill()
    acme.sidecar.start()
    again = acme.accept("debit", account="acme", id="d", amount=30)
    assert again == debited | {"replayed": True}
    outage.end()
    assert [charge[1] for charge in charges(acme)] == ["d", "before"]
    assert acme.available("acme") == 820


def test_it_is_not_made_good_twice_though_redis_and_sidecar_are_lost(
    acme: Meter, outage: Outage
) -> None:
    outage.begin()
    acme.accept("debit", account="acme", id="d", amount=30)
    outage.end()
    acme.ledger.confirm_all()
    # The charge is in the ledger, and of the two records only the mark is still needed.
    eventually(lambda: acme.sidecar.metric("credits_survivors") == 1)
    acme.sidecar.kill()
    acme.ledger.open_shards(acme.ledger.epoch + 1)
    acme.ledger.account("acme", 970, allowance=ALLOWANCE)
    acme.sidecar.start()
    outage.wait_good()
    assert acme.available("acme") == 970


def test_new_calls_of_an_account_come_after_what_it_owes(acme: Meter, outage: Outage) -> None:
    outage.begin()
    for number in range(20):
        acme.accept("debit", account="acme", id=f"d{number}", amount=5)
    outage.end()
    acme.accept("debit", account="acme", id="new", amount=1)
    assert [charge[1] for charge in charges(acme)] == [*(f"d{n}" for n in range(20)), "new"]


# What is full ---------------------------------------------------------------------------------


def test_a_full_journal_begins_nothing_new_and_ends_what_runs(
    lonely_redis_url: str, lonely_ledger: Ledger
) -> None:
    settings = {"journal_max_mb": "1", "journal_segment_mb": "1", **PATIENT}
    with running(lonely_redis_url, **settings) as sidecar, sidecar.client() as client:
        lonely_ledger.account("acme", 10_000_000)
        sidecar.wait_ready()
        meter = Meter(client, lonely_ledger, sidecar)
        meter.accept("hold", account="acme", id="running", amount=100)
        metadata = {f"{number}": "x" * 120 for number in range(16)}
        members = [
            {"op": "debit", "account": "acme", "amount": 1, "metadata": metadata} for _ in range(20)
        ]
        last = 200
        for batch in range(100):
            operations = [m | {"id": f"d{batch}-{n}"} for n, m in enumerate(members)]
            results = meter.accept("batch", operations=operations)["results"]
            last = results[-1]["http"]
            if last != 200:
                break
        assert last == 503
        assert "full" in client.get("/readyz").json()["reason"]
        response = meter.post("hold", account="acme", id="h", amount=1)
        assert error_of(response)["code"] == "store_unavailable"
        assert sidecar.metric("credits_journal_refusals_total") >= 1
        assert "degraded" not in meter.accept("settle", account="acme", id="running", amount=50)
        lonely_ledger.confirm_all()
        eventually(lambda: meter.post("hold", account="acme", id="h", amount=1).status_code == 200)


def test_a_redis_that_is_nearly_full_begins_nothing_new(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client, running(server.url) as sidecar:
            ledger = Ledger(client)
            ledger.open_shards()
            ledger.account("acme", 1_000)
            sidecar.wait_ready()
            with sidecar.client() as http:
                meter = Meter(http, ledger, sidecar)
                meter.accept("hold", account="acme", id="running", amount=100)
                used: Any = client.info("memory")
                client.config_set("maxmemory", int(used["used_memory"] * 1.1))
                eventually(lambda: sidecar.metric("credits_redis_memory_ratio") > 0.85)
                for verb, fields in (
                    ("hold", {"id": "h", "amount": 1}),
                    ("debit", {"id": "d", "amount": 1}),
                    ("extend", {"id": "running", "amount": 200}),
                ):
                    response = meter.post(verb, account="acme", **fields)
                    assert error_of(response)["code"] == "store_unavailable"
                assert meter.accept("settle", account="acme", id="running", amount=50)
                assert "filling up" in sidecar.log
                assert "nearly full: holds, debits and extends are refused" in sidecar.log
                client.config_set("maxmemory", 0)
                eventually(
                    lambda: meter.post("hold", account="acme", id="h", amount=1).status_code == 200
                )
                assert "has room again" in sidecar.log
    finally:
        server.stop()


def test_a_redis_that_is_quite_full_still_ends_what_runs_and_comes_back_by_itself(
    tmp_path: Path,
) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client, running(server.url) as sidecar:
            ledger = Ledger(client)
            ledger.open_shards()
            ledger.account("acme", 1_000)
            sidecar.wait_ready()
            with sidecar.client() as http:
                meter = Meter(http, ledger, sidecar)
                for number in range(3):
                    meter.accept("hold", account="acme", id=f"h{number}", amount=100)
                used: Any = client.info("memory")
                client.config_set("maxmemory", int(used["used_memory"] * 0.9))
                # Redis refuses every script, and the sign of life: both are waited for.
                assert meter.accept("settle", account="acme", id="h0", amount=50)["degraded"]
                eventually(lambda: http.get("/readyz").status_code == 503)
                assert meter.accept("settle", account="acme", id="h1", amount=60)["degraded"]
                assert meter.accept("release", account="acme", id="h2")["degraded"]
                response = meter.post("debit", account="acme", id="d", amount=1)
                assert error_of(response)["code"] == "store_unavailable"
                client.config_set("maxmemory", 0)
                eventually(lambda: sidecar.metric("credits_degraded_pending") == 0)
                eventually(lambda: http.get("/readyz").status_code == 200)
                assert (meter.available("acme"), meter.balance("acme")["held"]) == (890, 0)
    finally:
        server.stop()
