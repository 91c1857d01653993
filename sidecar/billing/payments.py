"""The facts of payments, and what they are worth: one row a PaymentIntent, one grant from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, func, select, update
from sqlalchemy.dialects.postgresql import insert

from persistence import accounts, grants
from persistence.errors import GrantConflict, TotalExceeded
from persistence.stripe_tables import stripe_payments as payments
from sidecar.billing.topups import TopUp
from sidecar.domain import Category

APPLIED: Final = "applied"
IGNORED: Final = "ignored"
FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event; `waits_for_account` names an account that has to be made first."""

    status: str
    error: str | None = None
    waits_for_account: str | None = None


def apply_top_up(c: Connection, top_up: TopUp, *, livemode: bool, now_ms: int) -> Outcome:
    """Keep what is said of a payment and grant what it is worth and has not given yet.

    The row of the payment stays locked to the end of the transaction, so of all events about it,
    in any order and however often, one makes the grant.
    """
    fact = _locked_fact(c, top_up, livemode, now_ms)
    if (fact["account"], fact["credits"]) != (top_up.account, top_up.credits):
        return Outcome(
            FAILED,
            f"it says {top_up.credits} for {top_up.account}, but {fact['credits']} for "
            f"{fact['account']} is known of {top_up.payment_intent}",
        )
    _advance(c, top_up, now_ms)
    target = top_up.credits if top_up.is_paid or fact["is_paid"] else 0
    if target == fact["granted"]:
        return Outcome(APPLIED)
    if accounts.get_account(c, top_up.account) is None:
        return Outcome(
            FAILED, f"there is no account {top_up.account} yet", waits_for_account=top_up.account
        )
    return _grant(c, top_up, target - fact["granted"])


def _locked_fact(c: Connection, top_up: TopUp, livemode: bool, now_ms: int) -> RowMapping:
    first: dict[str, Any] = {
        "payment_intent": top_up.payment_intent,
        "account": top_up.account,
        "credits": top_up.credits,
        "is_paid": top_up.is_paid,
        "livemode": livemode,
        "created_ms": now_ms,
        "updated_ms": now_ms,
    }
    c.execute(insert(payments).values(first).on_conflict_do_nothing())
    query = select(payments).where(payments.c.payment_intent == top_up.payment_intent)
    return c.execute(query.with_for_update()).mappings().one()


def _advance(c: Connection, top_up: TopUp, now_ms: int) -> None:
    # Paid stays paid: a late "unpaid" of the same payment takes nothing back.
    known = payments.c
    c.execute(
        update(payments)
        .where(known.payment_intent == top_up.payment_intent)
        .values(
            is_paid=known.is_paid | top_up.is_paid,
            paid_minor_units=func.coalesce(top_up.paid_minor_units, known.paid_minor_units),
            currency=func.coalesce(top_up.currency, known.currency),
            checkout_session=func.coalesce(top_up.checkout_session, known.checkout_session),
            updated_ms=now_ms,
        )
    )


def _grant(c: Connection, top_up: TopUp, amount: int) -> Outcome:
    request = grants.GrantRequest(
        account=top_up.account,
        id=top_up.payment_intent,
        amount=amount,
        category=Category.PAID,
        reference=top_up.payment_intent,
    )
    try:
        with c.begin_nested():
            grants.add_grant(c, request)
    except (GrantConflict, TotalExceeded) as error:
        return Outcome(FAILED, str(error))
    c.execute(
        update(payments)
        .where(payments.c.payment_intent == top_up.payment_intent)
        .values(granted=payments.c.granted + amount)
    )
    return Outcome(APPLIED)
