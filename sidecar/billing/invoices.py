"""Invoices of subscriptions: their paid lines are what allowances come from.

`billing_reason` says which lines give:

- `subscription_create`, `subscription_cycle`: those of the subscription's items, no prorations;
- `subscription_update`: these too (a new period began), and prorations to a new price or quantity,
  which give the new allowance from the moment of the change on;
- any other: none.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from sqlalchemy import RowMapping, case, func, select
from sqlalchemy.dialects.postgresql import insert

from persistence.plan_tables import stripe_invoices as invoices
from sidecar.billing import invoice_lines
from sidecar.billing.applying import APPLIED, FAILED, IGNORED, Applying, Handler, Outcome
from sidecar.billing.customers import no_account
from sidecar.billing.fetching import lock_object
from sidecar.billing.fields import account_in, currency_of, id_of, integer, one_of, optional_id
from sidecar.billing.plan_states import settle
from sidecar.billing.subscriptions import account_outcome, current

_REASONS: Final = frozenset(
    {
        "automatic_pending_invoice_item_invoice",
        "manual",
        "quote_accept",
        "subscription",
        "subscription_create",
        "subscription_cycle",
        "subscription_threshold",
        "subscription_update",
        "upcoming",
    }
)
_RANKS: Final = {"draft": 0, "open": 1, "uncollectible": 2, "void": 3, "paid": 4}
"""An invoice only moves forward, to a higher rank."""

_PAID: Final = "invoice.paid"


def apply_invoice(one: Applying) -> Outcome:
    """Keep what an event says of a subscription's invoice, and settle the subscription."""
    invoice = one.subject
    details = _subscription_details(invoice)
    subscription = optional_id(details.get("subscription"))
    if subscription is None:
        return Outcome(IGNORED)
    lock_object(one.c, id_of(invoice.get("id"), "its id"))
    row = current(one, subscription)
    account = account_in(details.get("metadata")) or row["account"]
    outcome = account_outcome(one.c, account)
    is_paid = one.type == _PAID and _status(invoice) == "paid"
    if is_paid and account is None:
        return Outcome(FAILED, no_account(row["customer"]))
    lines = _lines(one, row, account) if is_paid and outcome.status == APPLIED else None
    _record(one, subscription, account, lines)
    settle(one.c, subscription, one.now_ms)
    return outcome


def _subscription_details(invoice: dict[str, Any]) -> dict[str, Any]:
    parent = invoice.get("parent")
    details = parent.get("subscription_details") if isinstance(parent, dict) else None
    return details if isinstance(details, dict) else {}


def _status(invoice: dict[str, Any]) -> str:
    return one_of(invoice.get("status"), frozenset(_RANKS), "the invoice's status")


def _lines(one: Applying, row: RowMapping, account: str) -> list[dict[str, Any]] | None:
    """Return the paid lines with what their plans say, or None when that was done before."""
    id = one.subject["id"]
    query = select(invoices.c.is_paid).where(invoices.c.invoice == id)
    if one.c.scalar(query):
        return None
    reason = one_of(one.subject.get("billing_reason"), _REASONS, "the billing_reason")
    found = invoice_lines.paid_lines(one, row, account, reason)
    return [dataclasses.asdict(line) for line in found]


def _record(
    one: Applying, subscription: str, account: str | None, lines: list[dict[str, Any]] | None
) -> None:
    invoice = one.subject
    values = {
        "invoice": invoice["id"],
        "subscription": subscription,
        "customer": optional_id(invoice.get("customer")),
        "account": account,
        "status": _status(invoice),
        "billing_reason": one_of(invoice.get("billing_reason"), _REASONS, "the billing_reason"),
        "is_paid": lines is not None,
        "amount_paid": integer(invoice.get("amount_paid"), "amount_paid"),
        "currency": currency_of(invoice.get("currency")),
        "lines": lines or [],
        "created_ms": one.now_ms,
        "updated_ms": one.now_ms,
    }
    new = insert(invoices).values(values)
    is_forward = _rank(new.excluded.status) >= _rank(invoices.c.status)
    changes = {
        "status": case((is_forward, new.excluded.status), else_=invoices.c.status),
        "amount_paid": func.greatest(new.excluded.amount_paid, invoices.c.amount_paid),
        "account": func.coalesce(new.excluded.account, invoices.c.account),
        "updated_ms": one.now_ms,
    }
    if lines is not None:
        changes |= {"is_paid": True, "lines": lines}
    one.c.execute(new.on_conflict_do_update(index_elements=["invoice"], set_=changes))


def _rank(status: Any) -> Any:
    return case(_RANKS, value=status)


HANDLERS: Final[dict[str, Handler]] = {
    f"invoice.{kind}": apply_invoice
    for kind in (
        "paid",
        "payment_failed",
        "payment_action_required",
        "finalized",
        "marked_uncollectible",
        "voided",
    )
}
"""Which handler applies which event of invoices. `invoice.payment_succeeded` says less than
`invoice.paid`, which comes too when nothing had to be paid.
"""
