"""Disputes and early fraud warnings: what banks do to a payment after the fact."""

from __future__ import annotations

from sidecar.dev.fake_stripe import balance
from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.shapes import payments as shapes
from sidecar.dev.fake_stripe.state import Object, State, by_itself


def begin(state: State, charge: Object, kind: str, amount: int | None, reason: str) -> Object:
    """Open a dispute: an `inquiry` takes no money, a `chargeback` takes it at once."""
    status = "warning_needs_response" if kind == "inquiry" else "needs_response"
    amount = amount or charge["amount"] - charge["amount_refunded"]
    dispute = state.add(shapes.dispute(state, charge, amount, status, reason))
    dispute["_is_withdrawn"] = False
    charge["disputed"] = True
    if kind == "chargeback":
        _book(state, dispute, is_withdrawn=True)
    state.emit("charge.dispute.created", dispute, by_itself(dispute))
    if kind == "chargeback":
        state.emit("charge.dispute.funds_withdrawn", dispute, by_itself(dispute))
    return dispute


def withdraw(state: State, dispute: Object) -> Object:
    """Take the funds of a dispute; an inquiry becomes a chargeback by that."""
    _require(not dispute["_is_withdrawn"], "The funds are withdrawn already.")
    if dispute["status"].startswith("warning_"):
        dispute["payment_method_details"]["card"]["case_type"] = "chargeback"
        _change(state, dispute, "needs_response")
    _book(state, dispute, is_withdrawn=True)
    state.emit("charge.dispute.funds_withdrawn", dispute, by_itself(dispute))
    return dispute


def reinstate(state: State, dispute: Object) -> Object:
    """Give the funds of a dispute back."""
    _require(dispute["_is_withdrawn"], "The funds are not withdrawn.")
    _book(state, dispute, is_withdrawn=False)
    state.emit("charge.dispute.funds_reinstated", dispute, by_itself(dispute))
    return dispute


def answer(state: State, dispute: Object) -> Object:
    """Hand evidence in; the bank reviews it."""
    is_inquiry = dispute["status"].startswith("warning_")
    dispute["evidence_details"].update(has_evidence=True, submission_count=1)
    return _change(state, dispute, "warning_under_review" if is_inquiry else "under_review")


def win(state: State, dispute: Object) -> Object:
    """Let us win, now or after an appeal: the funds come back."""
    _end(state, dispute, "won")
    return reinstate(state, dispute) if dispute["_is_withdrawn"] else dispute


def lose(state: State, dispute: Object) -> Object:
    """Let us lose: the funds stay away. It is not final, there are appeals."""
    return _end(state, dispute, "lost")


def appeal(state: State, dispute: Object) -> Object:
    """Open a lost dispute again."""
    _require(dispute["status"] == "lost", "Only a lost dispute can be appealed.")
    return _change(state, dispute, "under_review")


def close(state: State, dispute: Object) -> Object:
    """Let an inquiry end without a chargeback."""
    _require(dispute["status"].startswith("warning_"), "Only an inquiry can be closed.")
    return _end(state, dispute, "warning_closed")


def accept(call: Call) -> Object:
    """Give a dispute up, as `POST /v1/disputes/{id}/close` does."""
    call.form.finish()
    return lose(call.state, call.found("dispute"))


def warn(state: State, charge: Object, fraud_type: str) -> Object:
    """Issue an early fraud warning about a charge."""
    warning = state.add(shapes.fraud_warning(state, charge, fraud_type))
    state.emit("radar.early_fraud_warning.created", warning, by_itself(warning))
    return warning


def _end(state: State, dispute: Object, status: str) -> Object:
    _require(dispute["status"] != status, f"The dispute is {status} already.")
    before = {"status": dispute["status"]}
    dispute["status"] = status
    state.emit("charge.dispute.updated", dispute, by_itself(dispute), before)
    state.emit("charge.dispute.closed", dispute, by_itself(dispute))
    return dispute


def _change(state: State, dispute: Object, status: str) -> Object:
    cause = by_itself(dispute)
    return state.change(dispute, "charge.dispute.updated", cause, status=status)


def _book(state: State, dispute: Object, *, is_withdrawn: bool) -> None:
    entry = balance.book_dispute(state, dispute, is_withdrawn=is_withdrawn)
    dispute["balance_transactions"] = [*dispute["balance_transactions"], entry]
    dispute["_is_withdrawn"] = is_withdrawn
    dispute["is_charge_refundable"] = not is_withdrawn


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise StripeFailure(message)
