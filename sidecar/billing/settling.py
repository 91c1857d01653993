"""Settling a payment: what it is worth by all its facts, less what was posted for it before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Table,
    false,
    func,
    or_,
    select,
    update,
)

from persistence import accounts, grants
from persistence.errors import GrantConflict, TotalExceeded
from persistence.money_tables import stripe_disputes as disputes
from persistence.money_tables import stripe_refunds as refunds
from persistence.stripe_tables import stripe_payments as payments
from sidecar.billing import access, auto_top_up_hooks
from sidecar.billing.alerts import AlertKind, raise_alert
from sidecar.billing.applying import APPLIED, FAILED, Outcome
from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.fetching import lock_object
from sidecar.domain import Category

ACTIVE_REFUNDS: Final = ("pending", "requires_action", "succeeded")
"""Statuses of refunds whose money is on its way back, or is there."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What a payment gives, and what of it went back with refunds and disputes; microcredits."""

    granted: int
    clawed_back: int


def worth_of(credits: int, *, is_paid: bool, amount: int, taken_back: int) -> Worth:
    """Return what a payment of `amount` is worth when `taken_back` of it went back.

    Both in the smallest unit of the currency. The part is rounded up once, and is never more than
    the whole, however much a refund and a dispute of the same payment come to together.
    """
    if not is_paid:
        return Worth(0, 0)
    if not taken_back:
        return Worth(credits, 0)
    return Worth(credits, min(credits, -(-credits * taken_back // amount)))


def settle(c: Connection, payment_intent: str, now_ms: int) -> Outcome:
    """Post what a payment is worth now and was not posted yet.

    Its row stays locked to the end of the transaction. A payment that is not known (yet) is left:
    its refunds and disputes are kept, and count when it comes.
    """
    query = select(payments).where(payments.c.payment_intent == payment_intent)
    fact = c.execute(query.with_for_update()).mappings().one_or_none()
    if fact is None:
        return Outcome(APPLIED)
    worth = worth_of(
        int(fact["credits"]),
        is_paid=fact["is_paid"],
        amount=int(fact["amount"] or 0),
        taken_back=_taken_back(c, fact),
    )
    if (fact["granted"], fact["clawed_back"]) == (worth.granted, worth.clawed_back):
        return _finished(c, fact, now_ms)
    if accounts.get_account(c, fact["account"], for_update=True) is None:
        account = str(fact["account"])
        return Outcome(FAILED, f"there is no account {account} yet", waits_for_account=account)
    try:
        with c.begin_nested():
            _post(c, fact, worth)
    except (GrantConflict, TotalExceeded) as error:
        return Outcome(FAILED, str(error))
    if not fact["granted"]:
        _on_first_grant(c, fact, now_ms)
    return _finished(c, fact, now_ms)


def payment_of(c: Connection, payment_intent: str | None, charge: str | None) -> str | None:
    """Return the PaymentIntent of ours that a refund or a dispute is about, or None (yet).

    From here to the end of the transaction nobody else learns of that payment: so either this
    transaction finds it, or the one that brings it finds what this one wrote before.
    """
    lock_payment(c, payment_intent, charge)
    query = select(payments.c.payment_intent).where(_names(payments, payment_intent, charge))
    found: str | None = c.scalar(query.limit(1))
    return found


def lock_payment(c: Connection, payment_intent: str | None, charge: str | None) -> None:
    """Let one transaction at a time learn something of a payment, known or not."""
    for id in (payment_intent, charge):
        if id is not None:
            lock_object(c, id)


def _names(table: Table, payment_intent: str | None, charge: str | None) -> ColumnElement[bool]:
    """Return whether a row names one of two ids: an id that is not known is in no row."""
    ids = (("payment_intent", payment_intent), ("charge", charge))
    return or_(false(), *(table.c[column] == id for column, id in ids if id is not None))


def _finished(c: Connection, fact: RowMapping, now_ms: int) -> Outcome:
    if accounts.get_account(c, fact["account"]) is not None:
        access.refresh(c, fact["account"], now_ms)
    return Outcome(APPLIED)


def _taken_back(c: Connection, fact: RowMapping) -> int:
    """Return how much of a payment went back, or is on its way."""
    total = 0
    for table, is_back in (
        (refunds, refunds.c.status.in_(ACTIVE_REFUNDS)),
        (disputes, disputes.c.is_withdrawn),
    ):
        is_of_it = _names(table, fact["payment_intent"], fact["charge"])
        query = select(table.c.currency, func.sum(table.c.amount)).where(is_of_it, is_back)
        for currency, amount in c.execute(query.group_by(table.c.currency)):
            if currency != fact["currency"]:
                raise EventNotUnderstood(
                    f"{amount} {currency} went back of a payment in {fact['currency']}"
                )
            total += int(amount)
    return total


def _post(c: Connection, fact: RowMapping, worth: Worth) -> None:
    payment, account = str(fact["payment_intent"]), str(fact["account"])
    postings = int(fact["postings"])
    if worth.granted > fact["granted"]:
        _add(c, account, payment, payment, worth.granted)
        postings += 1
    change = worth.clawed_back - int(fact["clawed_back"])
    if change:
        postings += 1
        id = f"{payment}:{postings}"
        if change > 0:
            grants.claw_back(c, account, change, grant_id=payment, id=id, reference=payment)
        else:
            _add(c, account, id, payment, -change)
    values: dict[str, Any] = {
        "granted": worth.granted,
        "clawed_back": worth.clawed_back,
        "postings": postings,
    }
    c.execute(update(payments).where(payments.c.payment_intent == payment).values(values))


def _add(c: Connection, account: str, id: str, payment: str, amount: int) -> None:
    request = grants.GrantRequest(
        account=account, id=id, amount=amount, category=Category.PAID, reference=payment
    )
    if grants.find_grant(c, account, id) is not None:
        raise GrantConflict(account, id)
    grants.add_grant(c, request)


def _on_first_grant(c: Connection, fact: RowMapping, now_ms: int) -> None:
    account, payment = str(fact["account"]), str(fact["payment_intent"])
    auto_top_up_hooks.on_paid(c, account, payment, fact["order_id"], now_ms)
    data = {
        "payment_intent": payment,
        "order_id": fact["order_id"],
        "credits": int(fact["credits"]),
        "paid_minor_units": fact["paid_minor_units"],
        "currency": fact["currency"],
    }
    raise_alert(c, AlertKind.TOP_UP_SUCCEEDED, account, data, key=payment, now_ms=now_ms)
