"""Charges: one attempt each to take the money of a PaymentIntent."""

from __future__ import annotations

from typing import Final

from sidecar.dev.fake_stripe import balance
from sidecar.dev.fake_stripe.failures import StripeFailure, missing
from sidecar.dev.fake_stripe.shapes import payments as shapes
from sidecar.dev.fake_stripe.state import Bank, Cause, Object, State

_MESSAGES: Final = {
    "authentication_required": "Your card was declined. This transaction requires authentication.",
    "expired_card": "Your card has expired.",
    "insufficient_funds": "Your card has insufficient funds.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
}

# The decline codes that are error codes too; all others are a `card_declined`.
_OWN_CODES: Final = ("authentication_required", "expired_card", "processing_error")


def begin(state: State, payment: Object, cause: Cause) -> Object:
    """Make the charge of an attempt; it is the latest one of its PaymentIntent."""
    charge = state.add(shapes.charge(state, payment, cause))
    method = state.get("payment_method", payment["payment_method"])
    details = {"type": method["type"], method["type"]: dict(method[method["type"]])}
    charge["payment_method_details"] = details
    payment["latest_charge"] = charge["id"]
    return charge


def succeed(state: State, charge: Object, cause: Cause) -> None:
    """Take the money of a charge; its fee is known a moment later."""
    charge.update(status="succeeded", paid=True, captured=True, amount_captured=charge["amount"])
    charge["receipt_url"] = f"https://pay.stripe.com/receipts/{charge['id']}"
    charge["outcome"] = _outcome("authorized", "approved_by_network", "Payment complete.")
    state.emit("charge.succeeded", charge, cause)
    balance.book_later(state, charge)


def fail(state: State, charge: Object, bank: Bank, cause: Cause) -> Object:
    """Let a charge be declined, and return the error object's fields for it."""
    error = error_of(bank)
    message = error["message"]
    charge.update(status="failed", failure_code=error["code"], failure_message=message)
    charge["outcome"] = _outcome("issuer_declined", "declined_by_network", message)
    charge["outcome"].update(advice_code=bank.advice_code, reason=error["decline_code"])
    state.emit("charge.failed", charge, cause)
    return error | {"charge": charge["id"]}


def error_of(bank: Bank) -> Object:
    """Return the error object's fields that say why a bank declines."""
    decline = bank.decline_code or "generic_decline"
    error: Object = {
        "code": decline if decline in _OWN_CODES else "card_declined",
        "decline_code": decline,
        "doc_url": "https://docs.stripe.com/error-codes",
        "message": _MESSAGES.get(decline, "Your card was declined."),
    }
    return error | ({"advice_code": bank.advice_code} if bank.advice_code else {})


def of_payment(state: State, charge: str | None, payment: str | None) -> Object:
    """Return the charge that is named, or that paid a PaymentIntent. Raises `StripeFailure`."""
    if charge is not None:
        found = state.get("charge", charge, "charge")
    elif payment is not None:
        intent = state.get("payment_intent", payment, "payment_intent")
        if intent["latest_charge"] is None:
            raise missing("charge", payment, "payment_intent")
        found = state.get("charge", intent["latest_charge"])
    else:
        raise StripeFailure("One of the following params should be provided: charge, "
                            "payment_intent.", code="parameter_missing")  # fmt: skip
    if found["status"] != "succeeded":
        raise StripeFailure(f"Charge {found['id']} has no successful payment.", param="charge")
    return found


def _outcome(kind: str, network_status: str, message: str) -> Object:
    return {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": network_status,
        "reason": None,
        "risk_level": "normal",
        "seller_message": message,
        "type": kind,
    }
