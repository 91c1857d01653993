"""PaymentIntents: made, confirmed, cancelled. A card's name says what its bank answers."""

from __future__ import annotations

from typing import Final

from sidecar.dev.fake_stripe import objects
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.state import Cause, Object, State

CARDS: Final[dict[str, str | None]] = {
    "pm_card_visa": None,
    "pm_card_mastercard": None,
    "pm_card_chargeDeclined": "generic_decline",
    "pm_card_chargeDeclinedInsufficientFunds": "insufficient_funds",
}
"""Payment methods of Stripe's test mode, and the decline code of those that decline."""

_OPEN: Final = ("requires_payment_method", "requires_confirmation")


def create(state: State, form: Form, cause: Cause) -> Object:
    """Make a PaymentIntent, and confirm it if that is asked for."""
    amount = form.integer("amount", least=1)
    if amount is None:
        form.required("amount")
    payment = objects.payment_intent(
        state,
        amount or 0,
        form.required("currency").lower(),
        cause,
        customer=form.text("customer"),
        description=form.text("description"),
        receipt_email=form.text("receipt_email"),
        setup_future_usage=form.text("setup_future_usage"),
        metadata=form.metadata(),
    )
    _choose_method(payment, form.text("payment_method"))
    confirm_now = form.flag("confirm")
    _take_confirmation(form)
    form.finish()
    if confirm_now and payment["payment_method"] is None:
        raise _without_method()
    state.add(payment)
    state.emit("payment_intent.created", payment, cause)
    return try_charge(state, payment, cause) if confirm_now else payment


def confirm(state: State, id: str, form: Form, cause: Cause) -> Object:
    """Confirm a PaymentIntent that is still open."""
    payment = state.get("payment_intent", id)
    method = form.text("payment_method")
    _take_confirmation(form)
    form.finish()
    _require_open(payment, "confirm")
    _choose_method(payment, method)
    if payment["payment_method"] is None:
        raise _without_method()
    return try_charge(state, payment, cause)


def cancel(state: State, id: str, form: Form, cause: Cause) -> Object:
    """Cancel a PaymentIntent that is still open."""
    payment = state.get("payment_intent", id)
    reason = form.text("cancellation_reason")
    form.finish()
    _require_open(payment, "cancel")
    payment.update(status="canceled", canceled_at=state.now(), cancellation_reason=reason)
    state.emit("payment_intent.canceled", payment, cause)
    return payment


def try_charge(state: State, payment: Object, cause: Cause) -> Object:
    """Charge the card. Raises `StripeFailure` (402) when its bank declines."""
    charge = state.add(objects.charge(state, payment, cause))
    payment["latest_charge"] = charge["id"]
    decline_code = CARDS[payment["payment_method"]]
    if decline_code is not None:
        raise _decline(state, payment, charge, decline_code, cause)
    charge.update(status="succeeded", paid=True, captured=True, amount_captured=payment["amount"])
    charge["outcome"] = {
        "advice_code": None,
        "network_status": "approved_by_network",
        "reason": None,
        "seller_message": "Payment complete.",
        "type": "authorized",
    }
    payment.update(status="succeeded", amount_received=payment["amount"], last_payment_error=None)
    state.emit("charge.succeeded", charge, cause)
    state.emit("payment_intent.succeeded", payment, cause)
    return payment


def _decline(
    state: State, payment: Object, charge: Object, decline_code: str, cause: Cause
) -> StripeFailure:
    message = "Your card was declined."
    error = {"code": "card_declined", "decline_code": decline_code, "charge": charge["id"]}
    charge.update(status="failed", failure_code="card_declined", failure_message=message)
    payment.update(
        status="requires_payment_method",
        payment_method=None,
        last_payment_error={"type": "card_error", "message": message} | error,
    )
    state.emit("charge.failed", charge, cause)
    state.emit("payment_intent.payment_failed", payment, cause)
    return StripeFailure(
        message, status=402, kind="card_error", is_kept=True, payment_intent=dict(payment), **error
    )


def _choose_method(payment: Object, method: str | None) -> None:
    if method is None:
        return
    if method not in CARDS:
        raise StripeFailure(
            f"No such PaymentMethod: '{method}'", code="resource_missing", param="payment_method"
        )
    payment.update(payment_method=method, status="requires_confirmation")


def _take_confirmation(form: Form) -> None:
    """Take the parameters that change nothing here: no card asks for anything, none redirects."""
    form.text("return_url")
    form.flag("off_session")
    form.flag("error_on_requires_action")
    form.texts("payment_method_types")
    methods = form.part("automatic_payment_methods")
    methods.flag("enabled")
    methods.text("allow_redirects")
    methods.finish()


def _require_open(payment: Object, verb: str) -> None:
    if payment["status"] not in _OPEN:
        raise StripeFailure(
            f"You cannot {verb} this PaymentIntent because it has a status of {payment['status']}.",
            code="payment_intent_unexpected_state",
            payment_intent=dict(payment),
        )


def _without_method() -> StripeFailure:
    return StripeFailure(
        "You cannot confirm this PaymentIntent because it's missing a payment method. Try "
        "payment_method=pm_card_visa.",
        code="payment_intent_unexpected_state",
    )
