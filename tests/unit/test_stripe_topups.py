"""What an event says about a top-up: nothing of ours, a payment, or something unclear."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.topups import read_top_up

METADATA = {"purpose": "topup", "account": "acme", "credits": "10000000"}
COMPLETED = "checkout.session.completed"
LATER = "checkout.session.async_payment_succeeded"


def payment(**fields: Any) -> dict[str, Any]:
    base = {
        "id": "pi_1",
        "object": "payment_intent",
        "status": "succeeded",
        "amount_received": 1000,
        "currency": "usd",
        "metadata": METADATA,
    }
    return base | fields


def session(**fields: Any) -> dict[str, Any]:
    base = {
        "id": "cs_1",
        "object": "checkout.session",
        "mode": "payment",
        "payment_status": "paid",
        "payment_intent": "pi_1",
        "amount_total": 1190,
        "currency": "eur",
        "metadata": METADATA,
    }
    return base | fields


def metadata(**fields: Any) -> dict[str, Any]:
    return payment(metadata=METADATA | fields)


def test_a_payment_of_ours_buys_what_its_metadata_says() -> None:
    top_up = read_top_up("payment_intent.succeeded", payment())
    assert top_up is not None
    assert (top_up.payment_intent, top_up.account) == ("pi_1", "acme")
    assert (top_up.credits, top_up.is_paid) == (10_000_000, True)
    assert (top_up.paid_minor_units, top_up.currency) == (1000, "usd")


@pytest.mark.parametrize("event_type", [COMPLETED, LATER])
@pytest.mark.parametrize("intent", ["pi_1", {"id": "pi_1", "object": "payment_intent"}])
def test_a_paid_session_is_about_the_same_payment(event_type: str, intent: Any) -> None:
    top_up = read_top_up(event_type, session(payment_intent=intent))
    assert top_up is not None
    assert (top_up.payment_intent, top_up.is_paid) == ("pi_1", True)
    assert top_up.checkout_session == "cs_1"


def test_an_unpaid_session_is_known_but_buys_nothing_yet() -> None:
    top_up = read_top_up(COMPLETED, session(payment_status="unpaid"))
    assert top_up is not None
    assert (top_up.is_paid, top_up.paid_minor_units) == (False, None)
    assert read_top_up(COMPLETED, session(payment_status="unpaid", payment_intent=None)) is None


@pytest.mark.parametrize(
    ("event_type", "subject"),
    [
        ("payment_intent.succeeded", payment(metadata={})),
        ("payment_intent.succeeded", payment(metadata=None)),
        ("payment_intent.succeeded", payment(metadata=[])),
        ("payment_intent.succeeded", metadata(purpose="rent")),
        ("payment_intent.succeeded", metadata(purpose=["topup"])),
        ("payment_intent.created", payment()),
        ("payment_intent.payment_failed", payment(status="requires_payment_method")),
        ("charge.succeeded", payment()),
        (COMPLETED, session(mode="subscription")),
        (COMPLETED, session(mode="setup")),
        (COMPLETED, session(metadata={})),
        ("checkout.session.expired", session()),
        ("checkout.session.async_payment_failed", session(payment_status="unpaid")),
        ("something.new", {}),
    ],
)
def test_what_is_not_ours_is_left_alone(event_type: str, subject: dict[str, Any]) -> None:
    assert read_top_up(event_type, subject) is None


@pytest.mark.parametrize(
    "credits",
    [
        None, "", "0", "-1", "+1", "1.0", "1e6", " 1", "1 ", "1\n", "01", "1_000", "0x1", "٣", "½",
        "9007199254740992", "9" * 17, "9" * 5000, 10, 10.0, True, ["1"],
    ],
)  # fmt: skip
def test_credits_that_are_not_plain_microcredits_are_not_guessed(credits: Any) -> None:
    with pytest.raises(EventNotUnderstood, match=r"metadata\.credits"):
        read_top_up("payment_intent.succeeded", metadata(credits=credits))


@pytest.mark.parametrize("credits", [1, 2**53 - 1])
def test_credits_reach_their_bounds(credits: int) -> None:
    top_up = read_top_up("payment_intent.succeeded", metadata(credits=str(credits)))
    assert top_up is not None
    assert top_up.credits == credits


@pytest.mark.parametrize("account", [None, "", "a b", "x" * 129, "a\n", "\ud800", 7, {}])
def test_an_account_without_the_form_of_one_is_unclear(account: Any) -> None:
    with pytest.raises(EventNotUnderstood, match=r"metadata\.account") as unclear:
        read_top_up("payment_intent.succeeded", metadata(account=account))
    assert str(unclear.value).isascii()


@pytest.mark.parametrize("status", ["refunded", None, 1, "PAID", []])
def test_an_unknown_payment_status_is_never_a_guess(status: Any) -> None:
    with pytest.raises(EventNotUnderstood, match="payment_status"):
        read_top_up(COMPLETED, session(payment_status=status))


@pytest.mark.parametrize("status", ["processing", "canceled", None])
def test_a_payment_that_did_not_succeed_is_unclear_as_a_success(status: Any) -> None:
    with pytest.raises(EventNotUnderstood, match="status"):
        read_top_up("payment_intent.succeeded", payment(status=status))


@pytest.mark.parametrize("status", ["paid", "no_payment_required"])
@pytest.mark.parametrize("intent", [None, "", 7, "a b", {}, "x" * 129])
def test_a_paid_session_without_a_payment_is_unclear(status: str, intent: Any) -> None:
    with pytest.raises(EventNotUnderstood, match="PaymentIntent"):
        read_top_up(COMPLETED, session(payment_status=status, payment_intent=intent))


def test_what_was_paid_never_decides_anything() -> None:
    for fields in ({"amount_received": "x", "currency": 5}, {"amount_received": True}):
        top_up = read_top_up("payment_intent.succeeded", payment(**fields))
        assert top_up is not None
        assert (top_up.credits, top_up.paid_minor_units) == (10_000_000, None)
