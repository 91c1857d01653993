"""Disputes and early fraud warnings: what the bank took back goes back; what it returns, too.

A dispute can go back and forth, and its events come out of order: it is fetched, under a lock of
its own, and the state that Stripe shows then is what counts.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import RowMapping, and_, func, select
from sqlalchemy.dialects.postgresql import insert

from persistence.money_tables import stripe_disputes as disputes
from persistence.money_tables import stripe_fraud_warnings as warnings
from persistence.stripe_tables import stripe_payments as payments
from sidecar.billing import auto_top_up_hooks
from sidecar.billing.alerts import AlertKind, raise_alert
from sidecar.billing.applying import APPLIED, Applying, Handler, Outcome
from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.fetching import is_newer, lock_object
from sidecar.billing.fields import (
    currency_of,
    id_of,
    instant_ms,
    integer,
    one_of,
    optional_id,
    shown,
)
from sidecar.billing.settling import payment_of, settle

_INQUIRIES: Final = frozenset({"warning_needs_response", "warning_under_review", "warning_closed"})
_TAKEN: Final = frozenset({"needs_response", "under_review", "lost"})
STATUSES: Final = _INQUIRIES | _TAKEN | {"won", "prevented"}
_OVER: Final = frozenset({"warning_closed", "won", "lost", "prevented"})


def apply_dispute(one: Applying) -> Outcome:
    """Fetch the dispute that an event is about, and settle its payment."""
    id = id_of(one.subject.get("id"), "its id")
    lock_object(one.c, id)
    known = one.c.execute(select(disputes).where(disputes.c.dispute == id)).mappings().first()
    if known is None or not is_newer(known["fetched_ms"], one):
        known = _record(one, one.api.get(f"/v1/disputes/{id}"))
    payment = payment_of(one.c, known["payment_intent"], known["charge"])
    if payment is None:
        return Outcome(APPLIED)
    outcome = settle(one.c, payment, one.now_ms)
    _tell(one, known, payment)
    return outcome


def is_withdrawn(dispute: dict[str, Any]) -> bool:
    """Tell whether the bank has the money now: by its movements, else by the status."""
    status = one_of(dispute.get("status"), STATUSES, "the dispute's status")
    moves = dispute.get("balance_transactions")
    if not isinstance(moves, list) or not moves:
        return status in _TAKEN
    total = 0
    for move in moves:
        amount = move.get("amount") if isinstance(move, dict) else None
        if not isinstance(amount, int) or isinstance(amount, bool):
            raise EventNotUnderstood(f"a movement of the dispute is {shown(amount)}")
        total += amount
    return total < 0


def _record(one: Applying, dispute: dict[str, Any]) -> RowMapping:
    row = {
        "dispute": id_of(dispute.get("id"), "its id"),
        "payment_intent": optional_id(dispute.get("payment_intent")),
        "charge": optional_id(dispute.get("charge")),
        "amount": integer(dispute.get("amount"), "amount"),
        "currency": currency_of(dispute.get("currency")),
        "status": one_of(dispute.get("status"), STATUSES, "the dispute's status"),
        "reason": shown(dispute.get("reason")),
        "is_withdrawn": is_withdrawn(dispute),
        "created_ms": instant_ms(dispute.get("created"), "created"),
        "fetched_ms": one.now_ms,
        "updated_ms": one.now_ms,
    }
    new = insert(disputes).values(row)
    changed = ("status", "amount", "is_withdrawn", "reason", "fetched_ms", "updated_ms")
    # What was forgiven is that the bank had the money then: not that it takes it (again) later.
    known = disputes.c
    forgiven = and_(known.is_forgiven, known.is_withdrawn, new.excluded.is_withdrawn)
    kept = new.on_conflict_do_update(
        index_elements=["dispute"],
        set_={name: new.excluded[name] for name in changed}
        | {
            name: func.coalesce(known[name], new.excluded[name])
            for name in ("payment_intent", "charge")
        }
        | {"is_forgiven": forgiven},
    )
    return one.c.execute(kept.returning(*known)).mappings().one()


def _tell(one: Applying, dispute: RowMapping, payment: str) -> None:
    """Stop auto top-up while a payment is in question, and tell the product."""
    account = one.c.scalar(select(payments.c.account).where(payments.c.payment_intent == payment))
    assert account is not None
    is_over = dispute["status"] in _OVER
    if not is_over:
        auto_top_up_hooks.pause(one.c, account, "dispute", one.now_ms)
    kind = AlertKind.DISPUTE_CLOSED if is_over else AlertKind.DISPUTE_OPENED
    data = {
        "dispute": dispute["dispute"],
        "payment_intent": payment,
        "status": dispute["status"],
        "amount_minor_units": dispute["amount"],
        "currency": dispute["currency"],
        "is_withdrawn": dispute["is_withdrawn"],
    }
    key = f"{dispute['dispute']}:{dispute['status'] if is_over else 'opened'}"
    raise_alert(one.c, kind, account, data, key=key, now_ms=one.now_ms)


def apply_fraud_warning(one: Applying) -> Outcome:
    """Mark the payment that a bank warns of, and stop auto top-up of its account."""
    warning = one.subject
    payment_intent = optional_id(warning.get("payment_intent"))
    charge = optional_id(warning.get("charge"))
    row = {
        "warning": id_of(warning.get("id"), "its id"),
        "payment_intent": payment_intent,
        "charge": charge,
        "is_actionable": warning.get("actionable") is True,
        "fraud_type": shown(warning.get("fraud_type")),
        "created_ms": instant_ms(warning.get("created"), "created"),
    }
    new = insert(warnings).values(row)
    one.c.execute(
        new.on_conflict_do_update(
            index_elements=["warning"], set_={"is_actionable": new.excluded.is_actionable}
        )
    )
    payment = payment_of(one.c, payment_intent, charge)
    if payment is None:
        return Outcome(APPLIED)
    account = one.c.scalar(select(payments.c.account).where(payments.c.payment_intent == payment))
    assert account is not None
    auto_top_up_hooks.pause(one.c, account, "fraud_warning", one.now_ms)
    data = {"warning": row["warning"], "payment_intent": payment}
    key = str(row["warning"])
    raise_alert(one.c, AlertKind.FRAUD_WARNING, account, data, key=key, now_ms=one.now_ms)
    return Outcome(APPLIED)


HANDLERS: Final[dict[str, Handler]] = {
    "charge.dispute.created": apply_dispute,
    "charge.dispute.updated": apply_dispute,
    "charge.dispute.closed": apply_dispute,
    "charge.dispute.funds_withdrawn": apply_dispute,
    "charge.dispute.funds_reinstated": apply_dispute,
    "radar.early_fraud_warning.created": apply_fraud_warning,
    "radar.early_fraud_warning.updated": apply_fraud_warning,
}
