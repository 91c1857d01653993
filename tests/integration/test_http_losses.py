"""After a loss: the sidecar hands its journal in, and answers for what Redis has forgotten.

1. A repeat of a charge is answered from the journal, with the first figures, and charges nothing;
   the same id with another request stays a conflict.
2. What older epochs left is handed in to the new one's stream as it was, and then the mark; what
   the ledger has confirmed is not.
3. A sidecar that was killed hands in when it is back, before it decides.
4. A hold of the time before is settled late, once; or in parts; or released.
5. A charge that another sidecar ran, and this one only repeated, is in this one's journal too.
6. A shard that is draining gets the mark of a sidecar that has nothing to hand in.
7. A sidecar that is not registered any more acknowledges nothing until it is again.
8. On its way out a sidecar waits for the ledger, and says goodbye.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar import keys
from tests.integration.meter_server import (
    PATIENT,
    SHARDS,
    Ledger,
    Meter,
    confirm_sidecars,
    error_of,
    eventually,
    running,
)


@pytest.fixture
def acme(lonely_redis_url: str, lonely_ledger: Ledger) -> Iterator[Meter]:
    """A sidecar of the test's own, and an account of 1,000."""
    with running(lonely_redis_url, **PATIENT) as sidecar, sidecar.client() as client:
        lonely_ledger.account("acme", 1_000)
        sidecar.wait_ready()
        yield Meter(client, lonely_ledger, sidecar)


def lose(meter: Meter, amount: int) -> None:
    """Let the shards be lost, and opened again with what the ledger has of the account."""
    meter.ledger.lose(acme=amount)
    wait_decided(meter)


def wait_decided(meter: Meter) -> None:
    """Wait until the sidecar decides for the account, in the epoch in which it is."""

    def is_decided() -> bool:
        confirm_sidecars(meter.ledger.redis)
        return meter.post("check", account="acme", amount=1).status_code == 200

    eventually(is_decided, "a decision")


def states(ledger: Ledger) -> list[str]:
    """Return what the sidecars said of themselves in their last sign of life."""
    return [json.loads(beat)["state"] for beat in ledger.redis.hvals(keys.SIDECARS)]


def test_a_repeat_of_a_charge_is_answered_from_the_journal(acme: Meter) -> None:
    first = acme.accept("debit", account="acme", id="d", amount=100)
    acme.accept("hold", account="acme", id="h", amount=100)
    held = acme.accept("hold", account="acme", id="h", amount=100)
    settled = acme.accept("settle", account="acme", id="h", amount=50)
    refunded = acme.accept("refund", account="acme", id="r", of="d", amount=10)
    running_hold = acme.accept("hold", account="acme", id="running", amount=30)
    lose(acme, 860)
    again = {"replayed": True}
    assert acme.accept("debit", account="acme", id="d", amount=100) == first | again
    assert acme.accept("settle", account="acme", id="h", amount=50) == settled | again
    assert acme.accept("refund", account="acme", id="r", of="d", amount=10) == refunded | again
    assert acme.accept("hold", account="acme", id="running", amount=30) == running_hold | again
    assert held["replayed"]
    assert acme.balance("acme")["available"] == 860


@pytest.mark.parametrize(
    ("verb", "fields", "code"),
    [
        ("debit", {"id": "d", "amount": 101}, "id_conflict"),
        ("hold", {"id": "d", "amount": 100}, "id_conflict"),
        ("settle", {"id": "d", "amount": 100}, "id_conflict"),
        ("release", {"id": "d"}, "id_conflict"),
        ("extend", {"id": "d", "amount": 100}, "id_conflict"),
        ("refund", {"id": "d", "of": "d"}, "id_conflict"),
        ("debit", {"id": "h", "amount": 50}, "id_conflict"),
        ("hold", {"id": "running", "amount": 31}, "id_conflict"),
        ("debit", {"id": "running", "amount": 30}, "id_conflict"),
        ("settle", {"id": "h", "amount": 51}, "hold_settled"),
        ("release", {"id": "h"}, "hold_settled"),
        ("extend", {"id": "h", "amount": 500}, "hold_settled"),
        ("extend", {"id": "running", "amount": 500}, "hold_not_found"),
        ("settle", {"id": "never", "amount": 1}, "hold_not_found"),
    ],
)
def test_another_request_under_a_lost_id_is_refused(
    acme: Meter, verb: str, fields: dict[str, Any], code: str
) -> None:
    acme.accept("debit", account="acme", id="d", amount=100)
    acme.accept("hold", account="acme", id="h", amount=100)
    acme.accept("settle", account="acme", id="h", amount=50)
    acme.accept("hold", account="acme", id="running", amount=30)
    lose(acme, 850)
    _, error = acme.refuse(verb, account="acme", **fields)
    assert error["code"] == code


def test_what_an_older_epoch_left_is_handed_in_as_it_was_and_then_the_mark(acme: Meter) -> None:
    acme.accept("debit", account="acme", id="confirmed", amount=100)
    acme.ledger.confirm_all()
    eventually(lambda: acme.sidecar.metric("credits_journal_records") == 0)
    acme.accept("debit", account="acme", id="d1", amount=100)
    acme.accept("debit", account="acme", id="d2", amount=200)
    before = acme.ledger.events("acme")[1:]
    lose(acme, 700)
    assert acme.ledger.events("acme") == before
    ((mark, epoch),) = [mark.split() for mark in acme.ledger.marks("acme")]
    assert epoch == str(acme.ledger.epoch)
    assert acme.ledger.redis.hexists(keys.SIDECARS, mark)
    assert acme.sidecar.metric("credits_handed_in_events_total") == 2
    acme.ledger.confirm_all()
    # Confirmed now, and still what repeats are answered from.
    eventually(lambda: acme.sidecar.metric("credits_survivors") == 2)
    assert acme.accept("debit", account="acme", id="d1", amount=100)["replayed"]


def test_a_second_loss_before_the_ledger_has_it_hands_it_in_again(acme: Meter) -> None:
    acme.accept("debit", account="acme", id="d1", amount=100)
    before = acme.ledger.events("acme")
    lose(acme, 900)
    lose(acme, 900)
    assert acme.ledger.events("acme") == before
    assert acme.accept("debit", account="acme", id="d1", amount=100)["replayed"]


def test_a_killed_sidecar_hands_in_when_it_is_back(acme: Meter) -> None:
    answer = acme.accept("debit", account="acme", id="d", amount=100)
    acme.accept("hold", account="acme", id="h", amount=100)
    before = acme.ledger.events("acme")
    acme.sidecar.kill()
    acme.ledger.lose(acme=900)
    acme.sidecar.start()
    wait_decided(acme)
    assert acme.ledger.events("acme") == before
    assert acme.accept("debit", account="acme", id="d", amount=100) == answer | {"replayed": True}
    assert acme.accept("settle", account="acme", id="h", amount=10)["late"]


def test_a_killed_sidecar_that_lost_nothing_goes_on(acme: Meter) -> None:
    acme.accept("debit", account="acme", id="d", amount=100)
    acme.accept("hold", account="acme", id="h", amount=100)
    acme.sidecar.kill()
    acme.sidecar.start().wait_ready()
    assert acme.sidecar.metric("credits_journal_records") == 2
    assert not acme.accept("settle", account="acme", id="h", amount=10)["late"]
    acme.ledger.confirm_all()
    eventually(lambda: acme.sidecar.metric("credits_journal_records") == 0)


def test_a_lost_hold_is_settled_late_and_once(acme: Meter) -> None:
    acme.accept("hold", account="acme", id="h", amount=100)
    lose(acme, 1_000)
    answer = acme.accept("settle", account="acme", id="h", amount=150)
    assert answer == {
        "id": "h", "status": "settled", "charged": 150, "released": 0, "available": 850,
        "late": True, "replayed": False,
    }  # fmt: skip
    again = acme.accept("settle", account="acme", id="h", amount=150)
    assert again == answer | {"replayed": True}
    assert [event["amount"] for event in acme.ledger.events("acme")] == [150]


def test_a_lost_hold_is_settled_in_parts(acme: Meter) -> None:
    acme.accept("hold", account="acme", id="h", amount=100)
    acme.accept("settle", account="acme", id="h", amount=20, final=False)
    lose(acme, 980)
    assert acme.accept("settle", account="acme", id="h", amount=20, final=False)["replayed"]
    answer = acme.accept("settle", account="acme", id="h", amount=50, final=False)
    assert (answer["status"], answer["available"], answer["late"]) == ("held", 950, True)
    lose(acme, 950)
    answer = acme.accept("settle", account="acme", id="h", amount=70)
    assert (answer["status"], answer["available"]) == ("settled", 930)
    amounts = [event["amount"] for event in acme.ledger.events("acme")]
    assert amounts == [20, 30, 20]
    assert acme.accept("refund", account="acme", id="r", of="h")["refunded"] == 70


def test_a_settle_of_a_lost_hold_below_what_was_charged_is_refused(acme: Meter) -> None:
    acme.accept("hold", account="acme", id="h", amount=100)
    acme.accept("settle", account="acme", id="h", amount=20, final=False)
    lose(acme, 980)
    _, error = acme.refuse("settle", account="acme", id="h", amount=19)
    assert error["code"] == "invalid_request"


def test_a_lost_hold_is_released(acme: Meter) -> None:
    acme.accept("hold", account="acme", id="h", amount=100)
    acme.accept("settle", account="acme", id="h", amount=20, final=False)
    lose(acme, 980)
    answer = acme.accept("release", account="acme", id="h")
    assert (answer["released"], answer["available"]) == (80, 980)
    assert acme.refuse("settle", account="acme", id="h", amount=30)[1]["code"] == "hold_not_found"


def test_a_charge_that_was_only_repeated_here_is_handed_in_too(
    acme: Meter, lonely_redis_url: str
) -> None:
    with running(lonely_redis_url, **PATIENT) as other, other.client() as client:
        other.wait_ready()
        for verb, fields in (
            ("debit", {"id": "d", "amount": 100}),
            ("hold", {"id": "h", "amount": 100}),
            ("settle", {"id": "h", "amount": 10}),
            ("refund", {"id": "r", "of": "d"}),
        ):
            first = client.post(f"/v1/{verb}", json={"account": "acme", **fields})
            assert first.status_code == 200
            again = acme.accept(verb, account="acme", **fields)
            assert again == first.json() | {"replayed": True}
        other.kill()
    before = acme.ledger.events("acme")
    lose(acme, 990)
    assert acme.ledger.events("acme") == before


def test_a_draining_shard_gets_the_mark_of_one_with_nothing_to_hand_in(acme: Meter) -> None:
    shard = keys.shard_of("acme", SHARDS)
    acme.ledger.lose()
    acme.ledger.redis.hset(keys.fence(shard), "draining", 1)
    eventually(lambda: len(acme.ledger.marks("acme")) == 1)
    acme.ledger.account("acme", 10)
    wait_decided(acme)
    # Registered anew, it is waited for anew.
    acme.ledger.redis.hdel(keys.REGISTERED, *acme.ledger.redis.hkeys(keys.REGISTERED))
    eventually(lambda: acme.post("check", account="acme", amount=1).status_code == 503)
    wait_decided(acme)
    assert len(acme.ledger.marks("acme")) == 2


def test_one_that_is_not_registered_acknowledges_nothing(acme: Meter) -> None:
    (id,) = acme.ledger.redis.hkeys(keys.SIDECARS)
    acme.ledger.redis.hset(keys.REGISTERED, id, "another boot")
    eventually(lambda: acme.http.get("/readyz").status_code == 503)
    assert "registered" in acme.http.get("/readyz").json()["reason"]
    response = acme.post("debit", account="acme", id="d", amount=100)
    assert error_of(response)["code"] == "store_unavailable"
    assert acme.ledger.events("acme") == []
    acme.sidecar.wait_ready()
    acme.accept("debit", account="acme", id="d", amount=100)


def test_a_confirmation_that_another_process_was_told_counts_for_nothing(acme: Meter) -> None:
    client: Any = acme.ledger.redis
    (id,) = client.hkeys(keys.SIDECARS)
    boot, _, replid = client.hget(keys.REGISTERED, id).decode().split(" ")
    for told in (f"{boot} {'0' * 40} {replid}", f"{boot} {client.info()['run_id']} {'0' * 40}"):
        acme.sidecar.wait_ready()
        client.hset(keys.REGISTERED, id, told)
        eventually(lambda: acme.http.get("/readyz").status_code == 503)
        assert "registered" in acme.http.get("/readyz").json()["reason"]


def test_on_its_way_out_it_waits_for_the_ledger_and_says_goodbye(
    lonely_ledger: Ledger, lonely_redis_url: str
) -> None:
    lonely_ledger.account("acme", 1_000)
    with running(lonely_redis_url, shutdown_grace_ms="20000") as sidecar:
        sidecar.wait_ready()
        with sidecar.client() as client:
            body = {"account": "acme", "id": "d", "amount": 1}
            assert client.post("/v1/debit", json=body).status_code == 200
        sidecar.process.terminate()
        eventually(lambda: states(lonely_ledger) == ["running"])
        assert sidecar.process.poll() is None
        lonely_ledger.confirm_all()
        assert sidecar.process.wait(15) == 0
    assert states(lonely_ledger) == ["leaving"]


def test_one_that_leaves_before_the_ledger_has_everything_says_no_goodbye(
    lonely_ledger: Ledger, lonely_redis_url: str
) -> None:
    lonely_ledger.account("acme", 1_000)
    with running(lonely_redis_url, shutdown_grace_ms="0") as sidecar:
        sidecar.wait_ready()
        with sidecar.client() as client:
            body = {"account": "acme", "id": "d", "amount": 1}
            assert client.post("/v1/debit", json=body).status_code == 200
        sidecar.process.terminate()
        assert sidecar.process.wait(15) == 0
    assert states(lonely_ledger) == ["running"]
