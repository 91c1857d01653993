"""What an event says about a top-up: nothing of ours, a payment, or something unclear."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.topups import is_top_up, read_payment, read_session

METADATA = {"purpose": "topup", "account": "acme", "credits": "10000000"}


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
    top_up = read_payment(payment())
    assert (top_up.payment_intent, top_up.account, top_up.order_id) == ("pi_1", "acme", None)
    assert (top_up.credits, top_up.is_paid) == (10_000_000, True)
    assert (top_up.amount, top_up.pre_tax, top_up.currency) == (1000, None, "usd")


def test_a_payment_of_an_order_needs_no_more() -> None:
    ordered = {"purpose": "topup", "order_id": "ord_1"}
    top_up = read_payment(payment(metadata=ordered))
    assert (top_up.order_id, top_up.account, top_up.credits) == ("ord_1", None, None)


@pytest.mark.parametrize("intent", ["pi_1", {"id": "pi_1", "object": "payment_intent"}])
def test_a_paid_session_is_about_the_same_payment(intent: Any) -> None:
    top_up = read_session(session(payment_intent=intent))
    assert top_up is not None
    assert (top_up.payment_intent, top_up.is_paid) == ("pi_1", True)
    assert top_up.checkout_session == "cs_1"


def test_a_session_tells_its_tax() -> None:
    top_up = read_session(session(total_details={"amount_tax": 190, "amount_discount": 0}))
    assert top_up is not None
    assert (top_up.amount, top_up.pre_tax) == (1190, 1000)


def test_an_unpaid_session_is_known_but_buys_nothing_yet() -> None:
    top_up = read_session(session(payment_status="unpaid"))
    assert top_up is not None
    assert not top_up.is_paid
    assert read_session(session(payment_status="unpaid", payment_intent=None)) is None


@pytest.mark.parametrize(
    "subject",
    [
        payment(metadata={}),
        payment(metadata=None),
        payment(metadata=[]),
        payment(metadata=METADATA | {"purpose": "rent"}),
        payment(metadata=METADATA | {"purpose": ["topup"]}),
        {},
    ],
)
def test_what_is_not_ours_is_left_alone(subject: dict[str, Any]) -> None:
    assert not is_top_up(subject)


def test_what_is_ours_says_so_in_our_metadata() -> None:
    assert is_top_up(payment())


@pytest.mark.parametrize(
    "credits",
    [
        "", "0", "-1", "+1", "1.0", "1e6", " 1", "1 ", "1\n", "01", "1_000", "0x1", "٣", "½",
        "9007199254740992", "9" * 17, "9" * 5000, 10, 10.0, True, ["1"],
    ],
)  # fmt: skip
def test_credits_that_are_not_plain_microcredits_are_not_guessed(credits: Any) -> None:
    with pytest.raises(EventNotUnderstood, match=r"metadata\.credits"):
        read_payment(metadata(credits=credits))


@pytest.mark.parametrize("credits", [1, 2**53 - 1])
def test_credits_reach_their_bounds(credits: int) -> None:
    assert read_payment(metadata(credits=str(credits))).credits == credits


@pytest.mark.parametrize("account", ["", "a b", "x" * 129, "a\n", "\ud800", 7, {}])
def test_an_account_without_the_form_of_one_is_unclear(account: Any) -> None:
    with pytest.raises(EventNotUnderstood, match=r"metadata\.account") as unclear:
        read_payment(metadata(account=account))
    assert str(unclear.value).isascii()


@pytest.mark.parametrize("status", ["refunded", None, 1, "PAID", []])
def test_an_unknown_payment_status_is_never_a_guess(status: Any) -> None:
    with pytest.raises(EventNotUnderstood, match="payment_status"):
        read_session(session(payment_status=status))


@pytest.mark.parametrize("status", ["processing", "canceled", None])
def test_a_payment_that_did_not_succeed_is_unclear_as_a_success(status: Any) -> None:
    with pytest.raises(EventNotUnderstood, match="status"):
        read_payment(payment(status=status))


@pytest.mark.parametrize("status", ["paid", "no_payment_required"])
@pytest.mark.parametrize("intent", [None, "", 7, "a b", {}, "x" * 129])
def test_a_paid_session_without_a_payment_is_unclear(status: str, intent: Any) -> None:
    with pytest.raises(EventNotUnderstood, match="PaymentIntent"):
        read_session(session(payment_status=status, payment_intent=intent))


@pytest.mark.parametrize("order", ["", "a b", 7, ["ord_1"], "x" * 129])
def test_an_order_that_is_no_id_is_unclear(order: Any) -> None:
    with pytest.raises(EventNotUnderstood, match="order_id"):
        read_payment(metadata(order_id=order))


@pytest.mark.parametrize("amount", [None, "x", True, 0, -1, 10.5, 2**53])
def test_what_was_paid_is_an_integer_of_the_smallest_unit(amount: Any) -> None:
    with pytest.raises(EventNotUnderstood, match="amount"):
        read_payment(payment(amount_received=amount))
    with pytest.raises(EventNotUnderstood, match="amount"):
        read_session(session(amount_total=amount))


@pytest.mark.parametrize("currency", [None, 5, "us", "dollars", "u$d"])
def test_a_currency_is_three_letters(currency: Any) -> None:
    with pytest.raises(EventNotUnderstood, match="currency"):
        read_payment(payment(currency=currency))
