"""Every call of the hot path, answered exactly as the contract says."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.integration.meter_server import TOP_UP_URL, Meter, eventually

TTL_MS = 600_000
MINI = "openai/gpt-4o-mini"


def now_ms(meter: Meter) -> int:
    seconds, micros = meter.ledger.redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


# hold -----------------------------------------------------------------------------------------


def test_hold_answers_what_it_set_aside(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    before = now_ms(meter)
    answer = meter.accept("hold", account="acme", id="h1", amount=300)
    expires_at_ms = answer.pop("expires_at_ms")
    assert before + TTL_MS <= expires_at_ms <= now_ms(meter) + TTL_MS
    assert answer == {
        "id": "h1",
        "status": "held",
        "amount": 300,
        "available": 700,
        "replayed": False,
    }


@pytest.mark.parametrize("ttl_ms", [1_000, 86_400_000])
def test_hold_lives_as_long_as_asked_for(meter: Meter, ttl_ms: int) -> None:
    meter.ledger.account("acme", 1_000)
    before = now_ms(meter)
    answer = meter.accept("hold", account="acme", id="h1", amount=300, ttl_ms=ttl_ms)
    assert before + ttl_ms <= answer["expires_at_ms"] <= now_ms(meter) + ttl_ms


@pytest.mark.parametrize("amount", [1, 999, 1_000])
def test_hold_takes_any_amount_up_to_all_that_is_available(meter: Meter, amount: int) -> None:
    meter.ledger.account("acme", 1_000)
    answer = meter.accept("hold", account="acme", id="h1", amount=amount)
    assert (answer["amount"], answer["available"]) == (amount, 1_000 - amount)


def test_hold_of_the_largest_amount_is_exact(meter: Meter) -> None:
    meter.ledger.account("acme", MAX_AMOUNT)
    assert meter.accept("hold", account="acme", id="h1", amount=MAX_AMOUNT)["available"] == 0
    assert meter.balance("acme")["held"] == MAX_AMOUNT
    assert meter.accept("release", account="acme", id="h1")["available"] == MAX_AMOUNT


def test_hold_may_use_the_overdraft_to_its_limit(meter: Meter) -> None:
    meter.ledger.account("acme", 100, overdraft=50)
    assert meter.accept("hold", account="acme", id="h1", amount=150)["available"] == -50
    status, error = meter.refuse("hold", account="acme", id="h2", amount=1)
    assert (status, error["code"]) == (402, "insufficient_credits")


def test_account_in_grace_may_spend(meter: Meter) -> None:
    meter.ledger.account("acme", 100, status="grace")
    assert meter.accept("hold", account="acme", id="h1", amount=100)["available"] == 0


def test_partial_hold_is_made_for_what_is_available(meter: Meter) -> None:
    meter.ledger.account("acme", 100, overdraft=50)
    answer = meter.accept("hold", account="acme", id="h1", amount=500, partial=True)
    del answer["expires_at_ms"]
    assert answer == {
        "id": "h1",
        "status": "held",
        "amount": 100,
        "available": 0,
        "replayed": False,
        "partial": True,
    }


def test_partial_hold_with_enough_available_is_a_whole_one(meter: Meter) -> None:
    meter.ledger.account("acme", 100)
    answer = meter.accept("hold", account="acme", id="h1", amount=100, partial=True)
    assert "partial" not in answer
    assert (answer["amount"], answer["available"]) == (100, 0)


@pytest.mark.parametrize("debt", [0, 10])
def test_partial_hold_with_nothing_available_is_refused(meter: Meter, debt: int) -> None:
    meter.ledger.account("acme", 100, overdraft=500)
    meter.accept("debit", account="acme", id="d1", amount=100 + debt)
    status, error = meter.refuse("hold", account="acme", id="h1", amount=1, partial=True)
    assert (status, error["code"], error["available"]) == (402, "insufficient_credits", -debt)


def test_priced_partial_hold_says_how_many_output_tokens_it_pays_for(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    usage = {"model": MINI, "input_tokens": 1_000, "max_output_tokens": 100_000}
    answer = meter.accept("hold", account="acme", id="h1", usage=usage, partial=True)
    # 1,000 microcredits less 150 for the input, at 0.6 for each token of output.
    assert answer["affordable_output_tokens"] == 1_416
    assert answer["amount"] == 1_000
    assert answer["partial"] is True


def test_holds_are_kept_apart_by_account(meter: Meter) -> None:
    for account in ("acme", "zeta"):
        meter.ledger.account(account, 100)
        assert meter.accept("hold", account=account, id="same", amount=60)["available"] == 40


# settle ---------------------------------------------------------------------------------------


def settled(charged: int, released: int, available: int, **more: Any) -> dict[str, Any]:
    answer = {"id": "h1", "status": "settled", "charged": charged, "released": released}
    return answer | {"available": available, "late": False, "replayed": False} | more


@pytest.mark.parametrize(
    ("amount", "released", "available"),
    [(0, 300, 1_000), (120, 180, 880), (300, 0, 700), (450, 0, 550), (1_500, 0, -500)],
)
def test_settle_charges_the_true_cost_and_frees_the_rest(
    meter: Meter, amount: int, released: int, available: int
) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    answer = meter.accept("settle", account="acme", id="h1", amount=amount)
    assert answer == settled(amount, released, available)
    assert meter.balance("acme")["held"] == 0


def test_streaming_settles_charge_the_total_so_far(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    answers = [
        meter.accept("settle", account="acme", id="h1", amount=amount, final=final)
        for amount, final in ((100, False), (250, False), (250, True))
    ]
    assert answers == [
        settled(100, 0, 700, status="held"),
        settled(250, 0, 700, status="held"),
        settled(250, 50, 750),
    ]
    assert [event["amount"] for event in meter.ledger.events("acme")] == [100, 150, 0]
    assert [event["flags"] for event in meter.ledger.events("acme")] == [0, 0, 4]


def test_streaming_settle_above_the_hold_is_charged_too(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    answer = meter.accept("settle", account="acme", id="h1", amount=400, final=False)
    assert answer == settled(400, 0, 600, status="held")
    answer = meter.accept("settle", account="acme", id="h1", amount=1_200)
    assert answer == settled(1_200, 0, -200)


@pytest.mark.parametrize("final", [True, False])
def test_settle_after_expiry_is_charged_and_late_and_final(meter: Meter, final: bool) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    meter.ledger.expire_now("acme", "h:h1")
    assert meter.available("acme") == 1_000
    answer = meter.accept("settle", account="acme", id="h1", amount=120, final=final)
    assert answer == settled(120, 0, 880, late=True)
    assert meter.ledger.events("acme")[-1]["flags"] == 5


def test_hold_expires_by_the_clock_of_redis(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300, ttl_ms=1_000)
    assert meter.available("acme") == 700
    eventually(lambda: meter.available("acme") == 1_000, "the expiry")
    assert meter.accept("settle", account="acme", id="h1", amount=300)["late"] is True


def test_settle_after_expiry_of_a_streamed_hold_keeps_what_was_charged(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    meter.accept("settle", account="acme", id="h1", amount=100, final=False)
    meter.ledger.expire_now("acme", "h:h1")
    assert meter.available("acme") == 900
    assert meter.accept("settle", account="acme", id="h1", amount=150) == settled(
        150, 0, 850, late=True
    )


# release --------------------------------------------------------------------------------------


def test_release_frees_the_whole_hold(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    assert meter.accept("release", account="acme", id="h1", reason="the caller left") == {
        "id": "h1",
        "status": "released",
        "released": 300,
        "available": 1_000,
        "replayed": False,
    }


def test_release_after_a_partial_settle_frees_the_rest_and_keeps_the_charge(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    meter.accept("settle", account="acme", id="h1", amount=100, final=False)
    answer = meter.accept("release", account="acme", id="h1")
    assert (answer["released"], answer["available"]) == (200, 900)


# extend ---------------------------------------------------------------------------------------


def test_extend_sets_a_new_total(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    first = meter.accept("hold", account="acme", id="h1", amount=300)
    assert meter.accept("extend", account="acme", id="h1", amount=500) == {
        "id": "h1",
        "status": "held",
        "amount": 500,
        "available": 500,
        "expires_at_ms": first["expires_at_ms"],
        "replayed": False,
    }
    assert meter.balance("acme")["held"] == 500


def test_extend_sets_the_time_anew(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    for amount in ({}, {"amount": 300}):
        before = now_ms(meter)
        answer = meter.accept("extend", account="acme", id="h1", ttl_ms=86_400_000, **amount)
        assert before + 86_400_000 <= answer["expires_at_ms"] <= now_ms(meter) + 86_400_000
        assert (answer["amount"], answer["available"]) == (300, 700)
        assert answer["replayed"] is False


def test_extend_may_shorten_the_time(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    before = now_ms(meter)
    answer = meter.accept("extend", account="acme", id="h1", ttl_ms=1_000)
    assert answer["expires_at_ms"] <= now_ms(meter) + 1_000
    assert answer["expires_at_ms"] >= before + 1_000


def test_extend_to_the_same_amount_is_a_replay(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    first = meter.accept("extend", account="acme", id="h1", amount=500)
    meter.accept("debit", account="acme", id="d1", amount=1)
    again = meter.accept("extend", account="acme", id="h1", amount=500)
    assert again == first | {"replayed": True}


def test_extend_after_a_partial_settle_counts_the_charge(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    meter.accept("settle", account="acme", id="h1", amount=100, final=False)
    answer = meter.accept("extend", account="acme", id="h1", amount=500)
    assert (answer["amount"], answer["available"]) == (500, 500)
    assert meter.balance("acme")["held"] == 400


# debit ----------------------------------------------------------------------------------------


def test_debit_charges_at_once(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    assert meter.accept("debit", account="acme", id="d1", amount=300) == {
        "id": "d1",
        "status": "debited",
        "charged": 300,
        "available": 700,
        "replayed": False,
    }


def test_events_say_who_and_what_for(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept(
        "debit", account="acme", id="d1", amount=300, scopes={"user": "u1"}, metadata={"k": "v"}
    )
    (event,) = meter.ledger.events("acme")
    assert (event["operation"], event["id"], event["amount"]) == ("debit", "d1", 300)
    assert event["detail"] == {"scopes": {"user": "u1"}, "metadata": {"k": "v"}}


# refund ---------------------------------------------------------------------------------------


def refunded(refund: int, available: int, replayed: bool = False) -> dict[str, Any]:
    answer = {"id": "r1", "status": "refunded", "refunded": refund, "available": available}
    return answer | {"replayed": replayed}


def test_refund_gives_back_all_that_is_left_by_default(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("debit", account="acme", id="d1", amount=300)
    meter.accept("refund", account="acme", id="r0", of="d1", amount=100)
    assert meter.accept("refund", account="acme", id="r1", of="d1") == refunded(200, 1_000)


def test_refund_of_a_settled_hold_goes_back(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    meter.accept("settle", account="acme", id="h1", amount=450)
    answer = meter.accept("refund", account="acme", id="r1", of="h1", amount=450, reason="sorry")
    assert answer == refunded(450, 1_000)
    assert meter.ledger.events("acme")[-1]["detail"] == {"of": "h1", "reason": "sorry"}


@pytest.mark.parametrize("ending", ["release", "expire"])
def test_refund_of_the_charge_of_a_hold_that_ended_otherwise(meter: Meter, ending: str) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("hold", account="acme", id="h1", amount=300)
    meter.accept("settle", account="acme", id="h1", amount=100, final=False)
    if ending == "release":
        meter.accept("release", account="acme", id="h1")
    else:
        meter.ledger.expire_now("acme", "h:h1")
    assert meter.accept("refund", account="acme", id="r1", of="h1") == refunded(100, 1_000)


def test_refunds_never_exceed_the_charge(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    meter.accept("debit", account="acme", id="d1", amount=300)
    meter.accept("refund", account="acme", id="r0", of="d1", amount=299)
    status, error = meter.refuse("refund", account="acme", id="r1", of="d1", amount=2)
    assert (status, error["code"], error["refundable"]) == (422, "refund_exceeds_charge", 1)
    meter.accept("refund", account="acme", id="r2", of="d1", amount=1)
    status, error = meter.refuse("refund", account="acme", id="r3", of="d1")
    assert (status, error["code"], error["refundable"]) == (422, "refund_exceeds_charge", 0)


def test_refund_goes_back_to_the_grants_that_paid(meter: Meter) -> None:
    meter.ledger.account("acme")
    meter.ledger.grant("acme", 100, "bought")
    meter.ledger.grant("acme", 50, "gift", category="promo")
    meter.accept("debit", account="acme", id="d1", amount=70)
    assert [(g["id"], g["remaining"]) for g in meter.balance("acme")["grants"]] == [("bought", 80)]
    meter.accept("refund", account="acme", id="r1", of="d1", amount=30)
    grants = {g["id"]: g["remaining"] for g in meter.balance("acme")["grants"]}
    assert grants == {"gift": 10, "bought": 100}


# check ----------------------------------------------------------------------------------------


def check(meter: Meter, **fields: Any) -> dict[str, Any]:
    before = meter.ledger.dump()
    answer = meter.accept("check", account="acme", **fields)
    meter.ledger.assert_unchanged(before)
    return answer


def test_check_says_what_is_affordable_and_changes_nothing(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    assert check(meter, amount=1_000) == {"allowed": True, "amount": 1_000, "available": 1_000}
    assert check(meter, amount=1_001, scopes={"user": "u"}) == {
        "allowed": False,
        "amount": 1_001,
        "available": 1_000,
        "reason": "insufficient_credits",
    }


def test_check_counts_the_overdraft(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000, overdraft=200)
    assert check(meter, amount=1_200)["allowed"] is True
    assert check(meter, amount=1_201)["allowed"] is False


def test_check_of_a_usage_says_how_many_output_tokens_are_affordable(meter: Meter) -> None:
    meter.ledger.account("acme", 600)
    usage = {"model": MINI, "max_output_tokens": 1_001}
    assert check(meter, usage=usage) == {
        "allowed": False,
        "amount": 601,
        "available": 600,
        "reason": "insufficient_credits",
        "affordable_output_tokens": 1_000,
    }
    assert check(meter, usage={"model": MINI, "max_output_tokens": 1_000}) == {
        "allowed": True,
        "amount": 600,
        "available": 600,
    }


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_check_of_an_account_that_may_not_spend_is_not_allowed(meter: Meter, status: str) -> None:
    meter.ledger.account("acme", 1_000, status=status, reason="unpaid")
    assert check(meter, amount=1) == {
        "allowed": False,
        "amount": 1,
        "available": 1_000,
        "reason": f"account_{status}",
    }


# balance --------------------------------------------------------------------------------------


def test_balance_shows_the_account_and_its_grants_in_burn_order(meter: Meter) -> None:
    meter.ledger.account("acme", overdraft=25)
    meter.ledger.grant("acme", 400, "bought")
    meter.ledger.grant("acme", 300, "gift", category="promo", expires_at_ms=4_000_000_000_000)
    meter.ledger.grant("acme", 200, "fixed", category="adjustment", priority=0)
    meter.ledger.grant("acme", 100, "monthly", category="allowance")
    meter.accept("hold", account="acme", id="h1", amount=250)
    assert meter.balance("acme") == {
        "account": "acme",
        "status": "active",
        "available": 750,
        "held": 250,
        "overdraft_limit": 25,
        "grants": [
            grant("gift", 250, "promo", 50, 4_000_000_000_000),
            grant("monthly", 100, "allowance", 50, None),
            grant("bought", 400, "paid", 50, None),
        ],
    }


def grant(
    id: str, remaining: int, category: str, priority: int, expires_at_ms: int | None
) -> dict[str, Any]:
    return {
        "id": id,
        "remaining": remaining,
        "category": category,
        "priority": priority,
        "expires_at_ms": expires_at_ms,
    }


def test_balance_of_an_empty_account_is_zero(meter: Meter) -> None:
    meter.ledger.account("acme", status="suspended", reason="unpaid")
    assert meter.balance("acme") == {
        "account": "acme",
        "status": "suspended",
        "available": 0,
        "held": 0,
        "overdraft_limit": 0,
        "grants": [],
    }


def test_balance_takes_every_character_of_an_account_name(meter: Meter) -> None:
    name = "AZaz09._:@-" + "x" * 117
    meter.ledger.account(name, 5)
    assert len(name) == 128
    assert meter.balance(name)["available"] == 5


def test_expired_grant_is_gone_and_what_comes_back_to_it_expires_too(meter: Meter) -> None:
    meter.ledger.account("acme")
    meter.ledger.grant("acme", 100, "gift", category="promo", expires_at_ms=4_000_000_000_000)
    meter.accept("hold", account="acme", id="h1", amount=60)
    meter.ledger.expire_now("acme", "g:1")
    assert meter.balance("acme")["grants"] == []
    answer = meter.accept("settle", account="acme", id="h1", amount=20)
    assert answer == settled(20, 40, 0)
    operations = [event["operation"] for event in meter.ledger.events("acme")]
    assert operations == ["expire", "settle", "expire"]


# suspended and closed ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_running_holds_of_a_suspended_account_can_still_be_ended(meter: Meter, status: str) -> None:
    meter.ledger.account("acme", 1_000)
    for id in ("h1", "h2"):
        meter.accept("hold", account="acme", id=id, amount=300)
    meter.ledger.set_status("acme", status, reason="unpaid")
    for verb, fields in (
        ("hold", {"id": "h3", "amount": 1}),
        ("debit", {"id": "d1", "amount": 1}),
        ("extend", {"id": "h1", "amount": 301}),
        ("extend", {"id": "h1", "ttl_ms": 1_000}),
    ):
        http, error = meter.refuse(verb, account="acme", **fields)
        assert (http, error["code"]) == (403, f"account_{status}")
        assert (error["type"], error["reason"]) == ("billing_error", "unpaid")
    assert meter.accept("settle", account="acme", id="h1", amount=200)["charged"] == 200
    assert meter.accept("release", account="acme", id="h2")["released"] == 300
    assert meter.accept("refund", account="acme", id="r1", of="h1")["refunded"] == 200


# top up -----------------------------------------------------------------------------------------


def test_insufficient_credits_say_what_is_needed_and_where_to_buy(guarded: Meter) -> None:
    guarded.ledger.account("acme", 100, overdraft=50)
    status, error = guarded.refuse("hold", account="acme", id="h1", amount=151)
    del error["message"]
    assert status == 402
    assert error == {
        "code": "insufficient_credits",
        "type": "billing_error",
        "param": None,
        "available": 100,
        "required": 151,
        "top_up_url": TOP_UP_URL,
    }


@pytest.mark.parametrize("verb", ["hold", "debit"])
def test_insufficient_credits_for_a_usage_say_how_many_tokens_are_affordable(
    meter: Meter, verb: str
) -> None:
    meter.ledger.account("acme", 100, overdraft=20)
    usage = {"model": MINI, "input_tokens": 400, "output_tokens": 1_000}
    status, error = meter.refuse(verb, account="acme", id="x1", usage=usage)
    del error["message"]
    assert status == 402
    assert error == {
        "code": "insufficient_credits",
        "type": "billing_error",
        "param": None,
        "available": 100,
        "required": 660,
        "affordable_output_tokens": 100,
    }


def test_extend_beyond_what_is_available_says_what_is_lacking(meter: Meter) -> None:
    meter.ledger.account("acme", 100)
    meter.accept("hold", account="acme", id="h1", amount=60)
    status, error = meter.refuse("extend", account="acme", id="h1", amount=101)
    assert (status, error["code"]) == (402, "insufficient_credits")
    assert (error["available"], error["required"]) == (40, 41)
