"""What an event says about a top-up: a payment that buys credits for an account."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from sidecar.billing.errors import EventNotUnderstood
from sidecar.domain import MAX_AMOUNT, Microcredits, is_account, is_id

PURPOSE: Final = "topup"
"""The value of the metadata field `purpose` that makes a payment one of ours."""

_CREDITS: Final = re.compile(r"^[1-9][0-9]{0,15}\Z")
_PAYMENT: Final = ("payment_intent.succeeded",)
_SESSION: Final = ("checkout.session.completed", "checkout.session.async_payment_succeeded")
_SESSION_PAID: Final = {"paid": True, "unpaid": False, "no_payment_required": True}


@dataclass(frozen=True, slots=True)
class TopUp:
    """What one event says about one payment.

    `credits` is what it buys, from our own metadata, never from what was paid. What was paid is
    in the smallest unit of its currency.
    """

    payment_intent: str
    account: str
    credits: Microcredits
    is_paid: bool
    paid_minor_units: int | None
    currency: str | None
    checkout_session: str | None


def read_top_up(event_type: str, subject: dict[str, Any]) -> TopUp | None:
    """Return what an event about `subject` says, or None when it is about nothing of ours.

    Raises `EventNotUnderstood` when it is a top-up, but what it says is not clear.
    """
    if event_type in _PAYMENT:
        return _of_payment(subject) if _is_ours(subject) else None
    if event_type in _SESSION:
        is_payment = subject.get("mode") == "payment"
        return _of_session(subject) if is_payment and _is_ours(subject) else None
    return None


def _is_ours(subject: dict[str, Any]) -> bool:
    metadata = subject.get("metadata")
    return isinstance(metadata, dict) and metadata.get("purpose") == PURPOSE


def _of_payment(payment: dict[str, Any]) -> TopUp:
    if payment.get("status") != "succeeded":
        raise EventNotUnderstood(f"the payment's status is {_shown(payment.get('status'))}")
    return TopUp(
        payment_intent=_payment_id(payment.get("id")),
        account=_account(payment),
        credits=_credits(payment),
        is_paid=True,
        paid_minor_units=_integer(payment.get("amount_received")),
        currency=_currency(payment),
        checkout_session=None,
    )


def _of_session(session: dict[str, Any]) -> TopUp | None:
    status = session.get("payment_status")
    if not isinstance(status, str) or status not in _SESSION_PAID:
        raise EventNotUnderstood(f"the session's payment_status is {_shown(status)}")
    is_paid = _SESSION_PAID[status]
    payment = session.get("payment_intent")
    if payment is None and not is_paid:
        return None
    return TopUp(
        payment_intent=_payment_id(payment),
        account=_account(session),
        credits=_credits(session),
        is_paid=is_paid,
        paid_minor_units=_integer(session.get("amount_total")) if is_paid else None,
        currency=_currency(session),
        checkout_session=_name(session.get("id")),
    )


def _payment_id(value: Any) -> str:
    if isinstance(value, dict):  # expanded: the object stands where its id would
        value = value.get("id")
    if not isinstance(value, str) or not is_id(value):
        raise EventNotUnderstood(f"it names no PaymentIntent, but {_shown(value)}")
    return value


def _account(subject: dict[str, Any]) -> str:
    account = subject["metadata"].get("account")
    if not isinstance(account, str) or not is_account(account):
        raise EventNotUnderstood(f"metadata.account is no account name: {_shown(account)}")
    return account


def _credits(subject: dict[str, Any]) -> Microcredits:
    text = subject["metadata"].get("credits")
    if not isinstance(text, str) or not _CREDITS.match(text) or int(text) > MAX_AMOUNT:
        raise EventNotUnderstood(
            f"metadata.credits must be microcredits, 1 to {MAX_AMOUNT} in plain digits; "
            f"it is {_shown(text)}"
        )
    return Microcredits(int(text))


def _currency(subject: dict[str, Any]) -> str | None:
    currency = subject.get("currency")
    is_code = isinstance(currency, str) and re.match(r"^[A-Za-z]{3}\Z", currency)
    return currency.lower() if is_code and isinstance(currency, str) else None


def _integer(value: Any) -> int | None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return value if is_integer and 0 <= value <= MAX_AMOUNT else None


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and is_id(value) else None


def _shown(value: Any) -> str:
    # In ASCII: it goes into a column that refuses NUL and half surrogates.
    return "missing" if value is None else ascii(value)[:80]
