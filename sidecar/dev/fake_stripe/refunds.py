"""Refunds: begun by us; a bank may let one wait, or fail it much later."""

from __future__ import annotations

from typing import Final

from sidecar.dev.fake_stripe import balance, cards, charges
from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.shapes import payments as shapes
from sidecar.dev.fake_stripe.state import Cause, Object, State

STATUSES: Final = ("pending", "requires_action", "succeeded", "failed", "canceled")

_ACTIVE: Final = STATUSES[:3]


def create(call: Call) -> Object:
    """Refund a charge, or a part of what is left of it."""
    form = call.form
    charge_id, payment_id = form.text("charge"), form.text("payment_intent")
    amount = form.integer("amount", least=1)
    reason, metadata = form.text("reason"), form.metadata()
    form.ignore("refund_application_fee", "reverse_transfer", "instructions_email")
    form.finish()
    charge = charges.of_payment(call.state, charge_id, payment_id)
    left = charge["amount_captured"] - charge["amount_refunded"]
    require_left(call.state, charge, left, amount)
    return begin(call.state, charge, amount or left, call.cause, reason, metadata)


def begin(
    state: State,
    charge: Object,
    amount: int,
    cause: Cause,
    reason: str | None = None,
    metadata: dict[str, str] | None = None,
) -> Object:
    """Begin a refund of an amount that is left."""
    bank = cards.bank_behind(state, charge["payment_method"])
    status = bank.refunds_begin or state.settings.refunds_begin
    fields = {"status": status, "reason": reason, "metadata": metadata or {}}
    refund = state.add(shapes.refund(state, charge, amount, cause, **fields))
    if status == "succeeded":
        refund["balance_transaction"] = balance.book_refund(state, refund)
    state.emit("refund.created", refund, cause)
    before = _recount(state, charge)
    state.emit("charge.refunded", charge, cause, before)
    return refund


def cancel(call: Call) -> Object:
    """Cancel a refund that waits."""
    refund = call.found("refund")
    call.form.finish()
    if refund["status"] not in ("pending", "requires_action"):
        raise StripeFailure(f"This refund is {refund['status']} and cannot be canceled.")
    return decide(call.state, refund, "canceled", call.cause)


def decide(
    state: State, refund: Object, status: str, cause: Cause, failure: str = "unknown"
) -> Object:
    """Give a refund another status, and its charge what follows from that."""
    before = {"status": refund["status"]}
    if status in ("failed", "canceled"):
        if refund["balance_transaction"] is not None:
            refund["failure_balance_transaction"] = balance.book_failed_refund(state, refund)
        refund["failure_reason"] = failure
    elif status == "succeeded" and refund["balance_transaction"] is None:
        refund["balance_transaction"] = balance.book_refund(state, refund)
    refund["status"] = status
    if status == "failed":
        state.emit("refund.failed", refund, cause, before)
    state.emit("refund.updated", refund, cause, before)
    state.emit("charge.refund.updated", refund, cause, before)
    _recount(state, state.get("charge", refund["charge"]))
    return refund


def cause_of(refund: Object) -> Cause:
    """Return the cause of what happens to a refund without a request."""
    return Cause(livemode=refund["_livemode"])


def _recount(state: State, charge: Object) -> Object:
    """Sum a charge's refunds anew, and return what it said before."""
    before = {name: charge[name] for name in ("amount_refunded", "refunded")}
    all_of_it = state.all("refund", charge=charge["id"])
    charge["amount_refunded"] = sum(r["amount"] for r in all_of_it if r["status"] in _ACTIVE)
    charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
    return {name: value for name, value in before.items() if charge[name] != value}


def require_left(state: State, charge: Object, left: int, amount: int | None) -> None:
    """Refuse to refund more of a charge than is left, or one whose funds are withdrawn."""
    id = charge["id"]
    if any(d["_is_withdrawn"] for d in state.all("dispute", charge=id)):
        message = f"Charge {id} has been charged back; cannot issue a refund."
        raise StripeFailure(message, code="charge_disputed")
    if left == 0:
        message = f"Charge {id} has already been refunded."
        raise StripeFailure(message, code="charge_already_refunded")
    if amount is not None and amount > left:
        raise StripeFailure(
            f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})",
            param="amount",
        )
