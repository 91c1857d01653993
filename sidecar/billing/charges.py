"""Charges: what Stripe kept of a payment. The fee is not in the payment: it is told later."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert

from persistence.money_tables import stripe_charges as charges
from persistence.stripe_tables import stripe_payments as payments
from sidecar.billing.applying import APPLIED, IGNORED, Applying, Handler, Outcome
from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.fields import currency_of, id_of, optional_id, shown
from sidecar.billing.settling import lock_payment, settle
from sidecar.billing.topups import is_top_up


def apply_charge(one: Applying) -> Outcome:
    """Apply `charge.updated`: ask for the real fee once the charge has a balance transaction."""
    transaction = one.subject.get("balance_transaction")
    if not is_top_up(one.subject) or transaction is None:
        return Outcome(IGNORED)
    if not isinstance(transaction, dict):
        id = id_of(transaction, "balance_transaction")
        transaction = one.api.get(f"/v1/balance_transactions/{id}")
    payment = optional_id(one.subject.get("payment_intent"))
    row = {
        "charge": id_of(one.subject.get("id"), "its id"),
        "payment_intent": payment,
        "balance_transaction": optional_id(transaction),
        "fee": _fee(transaction),
        "fee_currency": currency_of(transaction.get("currency")),
        "created_ms": one.now_ms,
        "updated_ms": one.now_ms,
    }
    lock_payment(one.c, payment, str(row["charge"]))
    new = insert(charges).values(row)
    told = {name: row[name] for name in ("balance_transaction", "fee", "fee_currency")}
    one.c.execute(
        new.on_conflict_do_update(index_elements=["charge"], set_=told | {"updated_ms": one.now_ms})
    )
    one.c.execute(
        update(payments)
        .where(payments.c.payment_intent == payment)
        .values(charge=row["charge"], fee=row["fee"], fee_currency=row["fee_currency"])
    )
    # Refunds and disputes may have named the charge only, before anybody knew whose it is.
    return Outcome(APPLIED) if payment is None else settle(one.c, payment, one.now_ms)


def _fee(transaction: dict[str, Any]) -> int:
    fee = transaction.get("fee")
    if not isinstance(fee, int) or isinstance(fee, bool):
        raise EventNotUnderstood(f"the fee is {shown(fee)}")
    return fee


HANDLERS: Final[dict[str, Handler]] = {"charge.updated": apply_charge}
