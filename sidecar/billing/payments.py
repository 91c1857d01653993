"""Payments that buy credits: one row a PaymentIntent, and what it is worth by all that is known.

No event adds credits. It adds a fact; then `settle` computes, under the lock of the payment's row,
what the payment is worth, and posts the difference to what was posted before.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, RowMapping, func, select, update
from sqlalchemy.dialects.postgresql import insert

from persistence import accounts
from persistence.money_tables import stripe_charges as charges
from persistence.stripe_tables import stripe_payments as payments
from sidecar.billing import auto_top_up_hooks
from sidecar.billing.alerts import AlertKind, raise_alert
from sidecar.billing.applying import APPLIED, FAILED, IGNORED, Applying, Handler, Outcome
from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.orders import Order, OrderPurpose, get_order
from sidecar.billing.settling import lock_payment, settle
from sidecar.billing.topups import TopUp, is_top_up, read_payment, read_session


def apply_payment(one: Applying) -> Outcome:
    """Apply `payment_intent.succeeded`. A subscription's looks the same but for our metadata."""
    return _record(one, read_payment(one.subject)) if is_top_up(one.subject) else Outcome(IGNORED)


def apply_session(one: Applying) -> Outcome:
    """Apply a Checkout session that is complete: nothing while it is unpaid."""
    if one.subject.get("mode") != "payment" or not is_top_up(one.subject):
        return Outcome(IGNORED)
    top_up = read_session(one.subject)
    return Outcome(IGNORED) if top_up is None else _record(one, top_up)


def apply_failure(one: Applying) -> Outcome:
    """Apply a payment that came to nothing: an auto top-up, or a delayed one of a session."""
    if not is_top_up(one.subject):
        return Outcome(IGNORED)
    auto_top_up_hooks.on_failed(one.c, one.subject, one.now_ms)
    account = one.subject["metadata"].get("account")
    if one.type != "checkout.session.async_payment_failed" or not _is_known(one.c, account):
        return Outcome(APPLIED)
    data = {"order_id": one.subject["metadata"].get("order_id"), "reason": "payment_failed"}
    key = str(one.subject.get("id"))
    raise_alert(one.c, AlertKind.TOP_UP_FAILED, account, data, key=key, now_ms=one.now_ms)
    return Outcome(APPLIED)


def _is_known(c: Connection, account: Any) -> bool:
    return isinstance(account, str) and accounts.get_account(c, account) is not None


def _record(one: Applying, top_up: TopUp) -> Outcome:
    """Keep what is said of a payment, and settle it."""
    account, credits = _worth(one, top_up)
    lock_payment(one.c, top_up.payment_intent, top_up.charge)
    fact = _locked_fact(one, top_up, account, credits)
    if (fact["account"], fact["credits"]) != (account, credits):
        return Outcome(
            FAILED,
            f"it says {credits} for {account}, but {fact['credits']} for {fact['account']} is "
            f"known of {top_up.payment_intent}",
        )
    _advance(one.c, top_up, one.now_ms)
    return settle(one.c, top_up.payment_intent, one.now_ms)


def _worth(one: Applying, top_up: TopUp) -> tuple[str, int]:
    """Return whom a payment is for and what it buys: by its order, or by its metadata."""
    if top_up.order_id is None:
        if not one.takes_metadata_top_ups:
            raise EventNotUnderstood(
                "it names no order, and CREDITS_STRIPE_METADATA_TOPUPS switches others off"
            )
        if top_up.account is None or top_up.credits is None:
            raise EventNotUnderstood(
                "it needs metadata.order_id, or else metadata.account and metadata.credits"
            )
        return top_up.account, top_up.credits
    order = get_order(one.c, top_up.order_id)
    if order is None:
        raise EventNotUnderstood(f"there is no order {top_up.order_id}")
    _check_order(order, top_up)
    return order.account, order.credits


def _check_order(order: Order, top_up: TopUp) -> None:
    """Refuse a payment of another account, currency or price than its order's."""
    if top_up.account not in (None, order.account):
        raise EventNotUnderstood(f"order {order.id} is not of account {top_up.account}")
    if top_up.currency != order.currency:
        raise EventNotUnderstood(
            f"it is in {top_up.currency}, order {order.id} in {order.currency}"
        )
    # A PaymentIntent of a session does not tell its tax: that may only have added to the price.
    is_exact = top_up.pre_tax is not None or order.purpose is OrderPurpose.AUTO_TOP_UP
    paid = top_up.amount if top_up.pre_tax is None else top_up.pre_tax
    if paid < order.price or (is_exact and paid != order.price):
        raise EventNotUnderstood(
            f"it pays {paid} for order {order.id}, whose price is {order.price}"
        )


def _locked_fact(one: Applying, top_up: TopUp, account: str, credits: int) -> RowMapping:
    first: dict[str, Any] = {
        "payment_intent": top_up.payment_intent,
        "account": account,
        "credits": credits,
        "order_id": top_up.order_id,
        "is_paid": False,
        "livemode": one.livemode,
        "created_ms": one.now_ms,
        "updated_ms": one.now_ms,
    }
    one.c.execute(insert(payments).values(first).on_conflict_do_nothing())
    query = select(payments).where(payments.c.payment_intent == top_up.payment_intent)
    found = one.c.execute(query.with_for_update()).mappings().one_or_none()
    if found is None:
        raise EventNotUnderstood(f"order {top_up.order_id} was paid by another payment")
    return found


def _advance(c: Connection, top_up: TopUp, now_ms: int) -> None:
    # Paid stays paid: a late "unpaid" of the same payment takes nothing back.
    known = payments.c
    fee = select(charges.c.fee, charges.c.fee_currency).where(
        charges.c.payment_intent == top_up.payment_intent, charges.c.fee.is_not(None)
    )
    told = c.execute(fee.limit(1)).one_or_none()
    c.execute(
        update(payments)
        .where(known.payment_intent == top_up.payment_intent)
        .values(
            is_paid=known.is_paid | top_up.is_paid,
            amount=top_up.amount,
            paid_minor_units=top_up.amount if top_up.is_paid else known.paid_minor_units,
            currency=top_up.currency,
            checkout_session=func.coalesce(known.checkout_session, top_up.checkout_session),
            customer=func.coalesce(known.customer, top_up.customer),
            charge=func.coalesce(top_up.charge, known.charge),
            fee=known.fee if told is None else told.fee,
            fee_currency=known.fee_currency if told is None else told.fee_currency,
            updated_ms=now_ms,
        )
    )


HANDLERS: Final[dict[str, Handler]] = {
    "payment_intent.succeeded": apply_payment,
    "payment_intent.payment_failed": apply_failure,
    "payment_intent.canceled": apply_failure,
    "checkout.session.completed": apply_session,
    "checkout.session.async_payment_succeeded": apply_session,
    "checkout.session.async_payment_failed": apply_failure,
}
