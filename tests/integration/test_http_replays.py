"""The same id again: the first answer for the same request, a conflict for another one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.meter_server import Meter

MINI = "openai/gpt-4o-mini"
GPT = "openai/gpt-4o"
Fields = dict[str, Any]


@pytest.fixture
def acme(meter: Meter) -> Meter:
    """A sidecar with an account that has a running hold, and a charge to refund."""
    meter.ledger.account("acme", 100_000)
    meter.accept("debit", account="acme", id="charge", amount=500)
    meter.accept("hold", account="acme", id="running", amount=5_000)
    meter.accept("hold", account="acme", id="other", amount=50)
    return meter


USAGE = {"model": MINI, "input_tokens": 1_000, "output_tokens": 10}
HOLD = {"id": "x1", "amount": 100}
SCOPED = HOLD | {"scopes": {"key": "k", "user": "u", "session": "s"}}
SETTLE = {"id": "running", "amount": 100}
REFUND = {"id": "x1", "of": "charge"}

SAME: list[tuple[str, Fields, Fields]] = [
    ("hold", HOLD, HOLD),
    ("hold", HOLD, HOLD | {"ttl_ms": 600_000, "partial": False}),
    ("hold", HOLD | {"ttl_ms": 600_000, "partial": False}, HOLD),
    ("hold", HOLD, HOLD | {"ttl_ms": None, "partial": None, "scopes": None, "usage": None}),
    ("hold", HOLD, HOLD | {"scopes": {}}),
    ("hold", HOLD, HOLD | {"metadata": {"a": "b"}}),
    ("hold", HOLD | {"metadata": {"a": "b"}}, HOLD | {"metadata": {"a": "c"}}),
    ("hold", SCOPED, HOLD | {"scopes": {"session": "s", "user": "u", "key": "k"}}),
    (
        "hold",
        HOLD | {"amount": 200_000, "partial": True},
        HOLD | {"amount": 200_000, "partial": True},
    ),
    ("hold", {"id": "x1", "usage": USAGE}, {"id": "x1", "usage": USAGE | {"images": 0}}),
    ("hold", {"id": "x1", "usage": USAGE}, {"id": "x1", "usage": USAGE | {"seconds": None}}),
    ("settle", SETTLE, SETTLE),
    ("settle", SETTLE, SETTLE | {"final": True}),
    ("settle", SETTLE | {"final": True}, SETTLE | {"metadata": {"a": "b"}}),
    ("settle", SETTLE | {"final": False}, SETTLE | {"final": False, "metadata": {"a": "b"}}),
    ("settle", {"id": "running", "usage": USAGE}, {"id": "running", "usage": USAGE}),
    ("release", {"id": "running"}, {"id": "running", "reason": "gone"}),
    ("debit", HOLD, HOLD | {"metadata": {"a": "b"}}),
    ("debit", SCOPED, SCOPED),
    ("debit", {"id": "x1", "usage": USAGE}, {"id": "x1", "usage": USAGE}),
    ("refund", REFUND, REFUND | {"reason": "sorry"}),
    ("refund", REFUND, REFUND | {"amount": 500}),
    ("refund", REFUND | {"amount": 500}, REFUND),
    ("refund", REFUND | {"amount": 200}, REFUND | {"amount": 200}),
]

OTHER: list[tuple[str, Fields, str, Fields]] = [
    ("hold", HOLD, "hold", HOLD | {"amount": 101}),
    ("hold", HOLD, "hold", HOLD | {"ttl_ms": 600_001}),
    ("hold", HOLD, "hold", HOLD | {"partial": True}),
    ("hold", HOLD, "hold", HOLD | {"scopes": {"user": "u"}}),
    ("hold", SCOPED, "hold", HOLD),
    ("hold", SCOPED, "hold", HOLD | {"scopes": {"key": "u", "user": "k", "session": "s"}}),
    ("hold", {"id": "x1", "usage": USAGE}, "hold", {"id": "x1", "amount": 156}),
    (
        "hold",
        {"id": "x1", "usage": USAGE},
        "hold",
        {"id": "x1", "usage": USAGE | {"reasoning_tokens": 1}},
    ),
    ("hold", {"id": "x1", "usage": USAGE}, "hold", {"id": "x1", "usage": USAGE | {"model": GPT}}),
    ("hold", HOLD, "debit", HOLD),
    ("hold", HOLD, "refund", REFUND),
    ("debit", HOLD, "hold", HOLD),
    ("debit", HOLD, "debit", HOLD | {"amount": 99}),
    ("debit", HOLD, "debit", SCOPED),
    ("debit", HOLD, "refund", REFUND),
    ("debit", HOLD, "settle", HOLD),
    ("debit", HOLD, "release", {"id": "x1"}),
    ("debit", HOLD, "extend", HOLD),
    ("refund", REFUND, "refund", REFUND | {"amount": 499}),
    ("refund", REFUND | {"amount": 200}, "refund", REFUND),
    ("refund", REFUND, "refund", REFUND | {"of": "running"}),
    ("refund", REFUND, "hold", HOLD),
    ("refund", REFUND, "debit", HOLD),
    ("refund", REFUND, "settle", HOLD),
    ("refund", REFUND, "release", {"id": "x1"}),
    ("refund", REFUND, "extend", HOLD),
]


@pytest.mark.parametrize(("verb", "first", "again"), SAME)
def test_the_same_request_again_gets_the_first_answer(
    acme: Meter, verb: str, first: Fields, again: Fields
) -> None:
    answer = acme.accept(verb, account="acme", **first)
    assert answer["replayed"] is False
    acme.accept("release", account="acme", id="other")
    before = acme.ledger.dump()
    assert acme.accept(verb, account="acme", **again) == answer | {"replayed": True}
    acme.ledger.assert_unchanged(before)


@pytest.mark.parametrize(("verb", "first", "other_verb", "other"), OTHER)
def test_another_request_with_the_same_id_is_a_conflict(
    acme: Meter, verb: str, first: Fields, other_verb: str, other: Fields
) -> None:
    acme.accept(verb, account="acme", **first)
    status, error = acme.refuse(other_verb, account="acme", **other)
    assert (status, error["code"]) == (409, "id_conflict")
    assert error["type"] == "invalid_request_error"


def test_the_same_id_in_another_account_is_another_request(acme: Meter) -> None:
    acme.ledger.account("zeta", 1_000)
    acme.accept("hold", account="acme", id="x1", amount=100)
    assert acme.accept("hold", account="zeta", id="x1", amount=200)["replayed"] is False


def test_hold_that_was_extended_is_repeated_with_its_first_figures(acme: Meter) -> None:
    first = acme.accept("hold", account="acme", id="x1", amount=100)
    acme.accept("extend", account="acme", id="x1", amount=900, ttl_ms=1_000_000)
    again = acme.accept("hold", account="acme", id="x1", amount=100)
    assert again == first | {"replayed": True}


@pytest.mark.parametrize("ending", ["settle", "release", "expire"])
def test_hold_that_has_ended_is_repeated_all_the_same(acme: Meter, ending: str) -> None:
    first = acme.accept("hold", account="acme", id="x1", amount=100)
    if ending == "expire":
        acme.ledger.expire_now("acme", "h:x1")
        acme.balance("acme")
    else:
        fields = {"amount": 1} if ending == "settle" else {}
        acme.accept(ending, account="acme", id="x1", **fields)
    assert acme.accept("hold", account="acme", id="x1", amount=100) == first | {"replayed": True}
    assert acme.balance("acme")["held"] == 5_050


def test_only_the_latest_settle_is_a_replay(acme: Meter) -> None:
    for amount in (100, 200):
        acme.accept("settle", account="acme", id="running", amount=amount, final=False)
    status, error = acme.refuse("settle", account="acme", id="running", amount=100, final=False)
    assert (status, error["code"], error["param"]) == (422, "invalid_request", "amount")


def test_settle_with_the_same_total_but_final_is_another_one(acme: Meter) -> None:
    acme.accept("settle", account="acme", id="running", amount=100, final=False)
    answer = acme.accept("settle", account="acme", id="running", amount=100)
    assert (answer["status"], answer["replayed"]) == ("settled", False)


@pytest.mark.parametrize(
    "fields", [{"amount": 101}, {"amount": 99}, {"amount": 100, "final": False}, {"usage": USAGE}]
)
def test_after_the_final_settle_another_is_refused(acme: Meter, fields: Fields) -> None:
    acme.accept("settle", account="acme", id="running", amount=100)
    status, error = acme.refuse("settle", account="acme", id="running", **fields)
    assert (status, error["code"]) == (409, "hold_settled")


def test_late_settle_is_repeated_with_its_first_figures(acme: Meter) -> None:
    acme.ledger.expire_now("acme", "h:running")
    first = acme.accept("settle", account="acme", id="running", amount=100)
    again = acme.accept("settle", account="acme", id="running", amount=100)
    assert again == first | {"replayed": True}
    assert first["late"] is True


def test_release_after_a_settle_that_charged_is_repeated_with_its_figures(acme: Meter) -> None:
    acme.accept("settle", account="acme", id="running", amount=100, final=False)
    first = acme.accept("release", account="acme", id="running")
    assert acme.accept("release", account="acme", id="running") == first | {"replayed": True}
    status, error = acme.refuse("settle", account="acme", id="running", amount=100, final=False)
    assert (status, error["code"]) == (409, "hold_released")


def test_extend_is_repeated_by_its_total(acme: Meter) -> None:
    first = acme.accept("extend", account="acme", id="running", amount=6_000)
    before = acme.ledger.dump()
    again = acme.accept("extend", account="acme", id="running", amount=6_000)
    assert again == first | {"replayed": True}
    acme.ledger.assert_unchanged(before)


def test_refused_request_does_not_use_up_its_id(acme: Meter) -> None:
    acme.refuse("hold", account="acme", id="x1", amount=1_000_000)
    assert acme.accept("hold", account="acme", id="x1", amount=1)["replayed"] is False


def test_replay_comes_before_every_check(acme: Meter) -> None:
    hold = acme.accept("hold", account="acme", id="x1", amount=1_000)
    debit = acme.accept("debit", account="acme", id="x2", amount=acme.available("acme"))
    acme.ledger.set_status("acme", "suspended")
    again = acme.accept("hold", account="acme", id="x1", amount=1_000)
    assert again == hold | {"replayed": True}
    again = acme.accept("debit", account="acme", id="x2", amount=debit["charged"])
    assert again == debit | {"replayed": True}
