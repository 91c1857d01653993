"""What an event says about a top-up: a payment that buys credits for an account."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.fields import account_in, currency_of, id_of, integer, optional_id, shown
from sidecar.domain import MAX_AMOUNT, Microcredits, is_id

PURPOSE: Final = "topup"
"""The value of the metadata field `purpose` that makes a payment one of ours."""

_CREDITS: Final = re.compile(r"^[1-9][0-9]{0,15}\Z")
_SESSION_PAID: Final = {"paid": True, "unpaid": False, "no_payment_required": True}


@dataclass(frozen=True, slots=True)
class TopUp:
    """What one event says about one payment, amounts in the smallest unit of its currency.

    It names its order, or else the `account` and the `credits` that it buys. `amount` is what is
    paid, with tax; `pre_tax` what is left of it without, where the event tells.
    """

    payment_intent: str
    order_id: str | None
    account: str | None
    credits: Microcredits | None
    is_paid: bool
    amount: int
    pre_tax: int | None
    currency: str
    checkout_session: str | None = None
    customer: str | None = None
    charge: str | None = None


def is_top_up(subject: dict[str, Any]) -> bool:
    """Tell whether a payment, a session or a charge is one of ours: only our metadata says so."""
    metadata = subject.get("metadata")
    return isinstance(metadata, dict) and metadata.get("purpose") == PURPOSE


def read_payment(payment: dict[str, Any]) -> TopUp:
    """Read a PaymentIntent that has succeeded. Raises `EventNotUnderstood`."""
    if payment.get("status") != "succeeded":
        raise EventNotUnderstood(f"the payment's status is {shown(payment.get('status'))}")
    return TopUp(
        payment_intent=id_of(payment.get("id"), "its id"),
        order_id=_order(payment),
        account=account_in(payment["metadata"]),
        credits=_credits(payment),
        is_paid=True,
        amount=integer(payment.get("amount_received"), "amount_received", least=1),
        pre_tax=None,
        currency=currency_of(payment.get("currency")),
        customer=optional_id(payment.get("customer")),
        charge=optional_id(payment.get("latest_charge")),
    )


def read_session(session: dict[str, Any]) -> TopUp | None:
    """Read a Checkout session that is complete; None while there is no payment of it yet.

    Raises `EventNotUnderstood`.
    """
    status = session.get("payment_status")
    if not isinstance(status, str) or status not in _SESSION_PAID:
        raise EventNotUnderstood(f"the session's payment_status is {shown(status)}")
    is_paid, payment = _SESSION_PAID[status], session.get("payment_intent")
    if payment is None and not is_paid:
        return None
    total = integer(session.get("amount_total"), "amount_total", least=1)
    return TopUp(
        payment_intent=id_of(payment, "the session's PaymentIntent"),
        order_id=_order(session),
        account=account_in(session["metadata"]),
        credits=_credits(session),
        is_paid=is_paid,
        amount=total,
        pre_tax=total - _tax(session),
        currency=currency_of(session.get("currency")),
        checkout_session=optional_id(session.get("id")),
        customer=optional_id(session.get("customer")),
    )


def _tax(session: dict[str, Any]) -> int:
    totals = session.get("total_details")
    return integer(totals.get("amount_tax", 0), "amount_tax") if isinstance(totals, dict) else 0


def _order(subject: dict[str, Any]) -> str | None:
    order = subject["metadata"].get("order_id")
    if order is not None and (not isinstance(order, str) or not is_id(order)):
        raise EventNotUnderstood(f"metadata.order_id is no id: {shown(order)}")
    return order


def _credits(subject: dict[str, Any]) -> Microcredits | None:
    text = subject["metadata"].get("credits")
    if text is None:
        return None
    if not isinstance(text, str) or not _CREDITS.match(text) or int(text) > MAX_AMOUNT:
        raise EventNotUnderstood(
            f"metadata.credits must be microcredits, 1 to {MAX_AMOUNT} in plain digits; "
            f"it is {shown(text)}"
        )
    return Microcredits(int(text))
