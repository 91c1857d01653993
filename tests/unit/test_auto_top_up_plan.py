"""How much is bought, in which month that is, and what a decline means: without any I/O."""

from __future__ import annotations

import datetime as dt

import pytest

from sidecar.billing import declines
from sidecar.billing.auto_top_up_plan import credits_to_buy, month_of
from sidecar.billing.declines import Decline
from sidecar.billing.errors import StripeRefused


def _ms(*instant: int) -> int:
    return int(dt.datetime(*instant, tzinfo=dt.UTC).timestamp() * 1000)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("available", "threshold", "amount", "left", "credits"),
    [
        (99, 100, 10, None, 10),
        (90, 100, 10, None, 10),
        (89, 100, 10, None, 20),
        (0, 100, 30, None, 120),
        (-55, 100, 10, None, 160),
        (99, 100, 1_000, None, 1_000),
        (0, 100, 30, 119, 90),
        (0, 100, 30, 120, 120),
        (0, 100, 30, 30, 30),
        (0, 100, 30, 29, 0),
        (0, 100, 30, 0, 0),
        (0, 100, 30, -5, 0),
    ],
)
def test_the_fewest_amounts_that_reach_the_threshold_within_the_cap(
    available: int, threshold: int, amount: int, left: int | None, credits: int
) -> None:
    assert credits_to_buy(available, threshold, amount, left) == credits


@pytest.mark.parametrize(
    ("now", "name", "end"),
    [
        ((2027, 1, 1), "2027-01", (2027, 2, 1)),
        ((2027, 1, 31, 23, 59, 59), "2027-01", (2027, 2, 1)),
        ((2027, 12, 31, 23, 59, 59), "2027-12", (2028, 1, 1)),
        ((2028, 2, 29, 12), "2028-02", (2028, 3, 1)),
    ],
)
def test_a_month_is_that_of_the_calendar_in_utc(
    now: tuple[int, ...], name: str, end: tuple[int, ...]
) -> None:
    for late_ms in (0, 999):
        month = month_of(_ms(*now) + late_ms)
        assert (month.name, month.start_ms) == (name, _ms(now[0], now[1], 1))
        assert month.end_ms == _ms(*end)


def _declined(code: str | None = None, advice: str | None = None) -> Decline:
    return Decline("card_declined", code, advice, "Your card was declined.")


@pytest.mark.parametrize(
    "code",
    [
        "authentication_required",
        "expired_card",
        "lost_card",
        "stolen_card",
        "pickup_card",
        "restricted_card",
        "revocation_of_all_authorizations",
        "fraudulent",
    ],
)
def test_some_codes_mean_that_only_another_card_helps(code: str) -> None:
    assert _declined(code).final_reason == code
    assert Decline(code, None, None, "").final_reason == code


@pytest.mark.parametrize(
    "code", ["generic_decline", "insufficient_funds", "processing_error", "new_code", None]
)
def test_after_other_declines_another_try_may_help_unless_the_advice_is_not_to(
    code: str | None,
) -> None:
    assert _declined(code, "try_again_later").final_reason is None
    assert _declined(code, "confirm_card_data").final_reason is None
    assert _declined(code, "do_not_try_again").final_reason == "do_not_try_again"


def test_the_waits_after_declines_are_an_hour_four_and_a_day_and_then_for_ever() -> None:
    hours = [ms // 3_600_000 if ms else None for ms in map(declines.wait_ms, range(1, 7))]
    assert hours == [1, 4, 24, None, None, None]


def test_a_decline_is_read_from_a_refusal_and_from_a_payment_alike() -> None:
    error = StripeRefused(
        "No.", status=402, code="card_declined", decline_code="lost_card", advice_code="x"
    )
    payment = {
        "status": "requires_payment_method",
        "last_payment_error": {
            "code": "card_declined",
            "decline_code": "lost_card",
            "advice_code": "x",
            "message": "No.",
        },
    }
    assert declines.of_refusal(error) == declines.of_payment(payment)
    assert declines.of_refusal(error).reason == "lost_card"


@pytest.mark.parametrize("payment", [{}, {"last_payment_error": 5}, {"status": 7}])
def test_a_payment_that_does_not_say_why_is_declined_for_no_known_reason(
    payment: dict[str, object],
) -> None:
    found = declines.of_payment(payment)
    assert (found.reason, found.final_reason) == ("declined", None)
    assert found.message


def test_a_payment_that_waits_for_the_payer_needs_authentication() -> None:
    found = declines.of_payment({"status": "requires_action", "last_payment_error": None})
    assert found.final_reason == "authentication_required"


def test_what_stripe_writes_becomes_ascii_without_nul() -> None:
    error = {"code": "card_declined", "message": "nö\x00"}
    found = declines.of_payment({"last_payment_error": error})
    assert found.message == "n\\xf6\\x00"
