"""Several operations in one request: in their order, each on its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.meter_server import Meter, eventually

Member = dict[str, Any]


def batch(meter: Meter, *members: Any) -> list[dict[str, Any]]:
    answer = meter.accept("batch", operations=list(members))
    assert list(answer) == ["results"]
    return list(answer["results"])


def hold(id: str, amount: int = 10, account: str = "acme") -> Member:
    return {"op": "hold", "account": account, "id": id, "amount": amount}


def test_members_are_decided_in_their_order(meter: Meter) -> None:
    meter.ledger.account("acme", 100)
    call = {"account": "acme", "id": "h1"}
    results = batch(
        meter,
        {"op": "check", "account": "acme", "amount": 100},
        hold("h1", 60),
        {"op": "extend", **call, "amount": 80},
        {"op": "settle", **call, "amount": 30, "final": False},
        {"op": "settle", **call, "amount": 50},
        {"op": "refund", "account": "acme", "id": "r1", "of": "h1", "amount": 20},
        {"op": "debit", "account": "acme", "id": "d1", "amount": 70},
        hold("h2", 1),
        {"op": "release", "account": "acme", "id": "h1"},
    )
    assert [result["http"] for result in results] == [200] * 7 + [402, 409]
    assert results[0] == {"http": 200, "allowed": True, "amount": 100, "available": 100}
    assert results[4] == {
        "http": 200,
        "id": "h1",
        "status": "settled",
        "charged": 50,
        "released": 30,
        "available": 50,
        "late": False,
        "replayed": False,
    }
    assert [result.get("available") for result in results[1:7]] == [40, 20, 20, 50, 70, 0]
    assert results[7]["error"]["code"] == "insufficient_credits"
    assert results[8]["error"]["code"] == "hold_settled"


def test_members_stand_alone(meter: Meter) -> None:
    for account in ("acme", "zeta"):
        meter.ledger.account(account, 100)
    meter.ledger.set_status("zeta", "suspended", reason="unpaid")
    results = batch(meter, hold("h1"), hold("h2", 1_000), hold("h3", account="zeta"), hold("h4"))
    assert [result["http"] for result in results] == [200, 402, 403, 200]
    assert meter.available("acme") == 80


def test_the_same_member_twice_is_a_replay(meter: Meter) -> None:
    meter.ledger.account("acme", 100)
    first, again, other = batch(meter, hold("h1"), hold("h1"), hold("h1", 11))
    assert again == first | {"replayed": True}
    assert (other["http"], other["error"]["code"]) == (409, "id_conflict")


MALFORMED: list[tuple[Any, str | None]] = [
    (None, "operations"),
    (5, "operations"),
    ("hold", "operations"),
    ([], "operations"),
    ({}, "op"),
    ({"op": None}, "op"),
    ({"op": 5}, "op"),
    ({"op": ["hold"]}, "op"),
    ({"op": "HOLD"}, "op"),
    ({"op": "batch", "operations": []}, "op"),
    ({"op": "gate"}, "op"),
    ({"op": "balance", "account": "acme"}, "op"),
    ({"op": "__class__"}, "op"),
    ({"account": "acme", "id": "x", "amount": 5}, "op"),
    ({"op": "hold"}, "account"),
    ({"op": "hold", "account": "acme", "id": "x"}, "amount"),
    ({"op": "hold", "account": "acme", "id": "x", "amount": 5, "extra": 1}, "extra"),
    ({"op": "hold", "account": "acme", "id": "x", "amount": 5.0}, "amount"),
    ({"op": "hold", "account": "acme", "id": "x", "amount": True}, "amount"),
    ({"op": "hold", "account": "acme", "id": "x", "amount": "5"}, "amount"),
    ({"op": "hold", "account": "acme", "id": "x", "amount": 2**53}, "amount"),
    ({"op": "hold", "account": "acme", "id": "x", "amount": 10**400}, "amount"),
    ({"op": "hold", "account": "acme", "id": "x y", "amount": 5}, "id"),
    ({"op": "settle", "account": "acme", "id": "x", "amount": -1}, "amount"),
    ({"op": "debit", "account": "acme", "id": "x", "usage": {"model": 5}}, "usage.model"),
    ({"op": "refund", "account": "acme", "id": "x"}, "of"),
]


def test_malformed_member_is_a_refusal_of_its_own(meter: Meter) -> None:
    meter.ledger.account("acme", 100)
    results = batch(meter, hold("h1"), *(member for member, _ in MALFORMED), hold("h2"))
    assert [result["http"] for result in results] == [200] + [422] * len(MALFORMED) + [200]
    for (member, param), result in zip(MALFORMED, results[1:-1], strict=True):
        assert list(result) == ["http", "error"]
        assert result["error"]["code"] == "invalid_request", member
        assert result["error"]["param"] == param, member
    assert meter.available("acme") == 80


def test_number_beyond_all_bounds_spoils_only_its_member(meter: Meter) -> None:
    meter.ledger.account("acme", 100)
    member = '{"op":"debit","account":"acme","id":"%s","amount":%s}'
    body = f'{{"operations":[{member % ("d1", "5")},{member % ("d2", "1e999")}]}}'
    headers = {"Content-Type": "application/json"}
    results = meter.http.post("/v1/batch", content=body, headers=headers).json()["results"]
    assert [result["http"] for result in results] == [200, 422]


def test_unknown_model_is_a_refusal_of_its_own(meter: Meter) -> None:
    meter.ledger.account("acme", 100)
    member = {"op": "debit", "account": "acme", "id": "d1", "usage": {"model": "m", "images": 1}}
    (result,) = batch(meter, member)
    assert (result["http"], result["error"]["code"]) == (422, "unknown_model")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"operations": None},
        {"operations": []},
        {"operations": {}},
        {"operations": "hold"},
        {"operations": [hold(f"h{n}") for n in range(101)]},
        {"operations": [hold("h1")], "account": "acme"},
        {"operation": [hold("h1")]},
    ],
)
def test_wrong_list_is_refused_as_a_whole(meter: Meter, fields: dict[str, Any]) -> None:
    meter.ledger.account("acme", 10_000)
    status, error = meter.refuse("batch", **fields)
    assert (status, error["code"]) == (422, "invalid_request")


def test_a_hundred_members_are_decided(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    results = batch(meter, *(hold(f"h{n}") for n in range(100)))
    assert [result["available"] for result in results] == list(range(990, -10, -10))


def test_members_of_accounts_that_nobody_knows_do_not_wait_for_one_another(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    eventually(lambda: meter.available("acme") == 1_000)
    strangers = [hold("h1", account=f"stranger-{n}") for n in range(99)]
    results = batch(meter, *strangers, hold("h1"))
    assert [result["http"] for result in results] == [503] * 99 + [200]
