"""Payment methods: a test name says what the bank behind one answers, until that is changed."""

from __future__ import annotations

from typing import Final

from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure, missing
from sidecar.dev.fake_stripe.lists import page
from sidecar.dev.fake_stripe.shapes import customers as shapes
from sidecar.dev.fake_stripe.state import Bank, Cause, Object, State

DEFAULT_CARD: Final = "pm_card_visa"

ADVICE: Final = {
    "generic_decline": "try_again_later",
    "insufficient_funds": "try_again_later",
    "processing_error": "try_again_later",
    "expired_card": "confirm_card_data",
    "lost_card": "do_not_try_again",
    "stolen_card": "do_not_try_again",
    "fraudulent": "do_not_try_again",
}
"""What card networks usually advise after a decline."""


def declining(decline_code: str, advice_code: str | None = None) -> Bank:
    """Return a bank that declines, with the usual advice unless another one is given."""
    return Bank(decline_code, advice_code or ADVICE.get(decline_code))


CARDS: Final[dict[str, Bank]] = {
    "pm_card_visa": Bank(),
    "pm_card_mastercard": Bank(),
    "pm_card_chargeDeclined": declining("generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": declining("insufficient_funds"),
    "pm_card_chargeDeclinedLostCard": declining("lost_card"),
    "pm_card_chargeDeclinedStolenCard": declining("stolen_card"),
    "pm_card_chargeDeclinedExpiredCard": declining("expired_card"),
    "pm_card_chargeDeclinedProcessingError": declining("processing_error"),
    "pm_card_chargeDeclinedDoNotTryAgain": declining("generic_decline", "do_not_try_again"),
    "pm_card_chargeCustomerFail": declining("generic_decline"),
    "pm_card_authenticationRequired": Bank(asks_for_authentication=True),
    "pm_card_pendingRefund": Bank(refunds_begin="pending"),
    "pm_card_refundRequiresAction": Bank(refunds_begin="requires_action"),
    "pm_sepa_debit": Bank(is_delayed=True),
    "pm_sepa_debit_fail": Bank("insufficient_funds", is_delayed=True),
}
"""Payment methods of Stripe's test mode and some of ours, with what their banks answer."""


def attach(call: Call) -> Object:
    """Attach a payment method to a customer; a test name makes a new one."""
    customer = call.state.get("customer", call.form.required("customer"), "customer")
    call.form.finish()
    method = named(call.state, call.id, call.cause, param="payment_method")
    return attach_to(call.state, method, customer["id"], call.cause)


def attach_to(state: State, method: Object, customer: str, cause: Cause) -> Object:
    """Attach a payment method to a customer. Raises `StripeFailure` if it is another's."""
    if method["customer"] not in (None, customer):
        raise StripeFailure(
            "The payment method you provided has already been attached to a customer.",
            param="payment_method",
        )
    if method["customer"] is None:
        method["customer"] = customer
        state.emit("payment_method.attached", method, cause)
    return method


def detach(call: Call) -> Object:
    """Take a payment method from its customer, who pays with it no more."""
    method = call.found("payment_method")
    call.form.finish()
    if method["customer"] is None:
        raise StripeFailure("The payment method you provided is not attached to a customer.")
    customer = call.state.get("customer", method["customer"])
    before, method["customer"] = {"customer": method["customer"]}, None
    if customer["invoice_settings"]["default_payment_method"] == method["id"]:
        settings = customer["invoice_settings"] | {"default_payment_method": None}
        call.state.change(customer, "customer.updated", call.cause, invoice_settings=settings)
    call.state.emit("payment_method.detached", method, call.cause, before)
    return method


def listed(call: Call) -> Object:
    """List the payment methods of a customer, who is in the path or a parameter."""
    in_path = bool(call.id)
    id = call.id if in_path else call.form.required("customer")
    customer = call.state.get("customer", id, "id" if in_path else "customer")
    kind = call.form.text("type")
    call.form.ignore("allow_redisplay")
    url = f"/v1/customers/{id}/payment_methods" if in_path else "/v1/payment_methods"
    methods = [*call.state.all("payment_method", customer=customer["id"])]
    return page(call.form, url, methods, lambda method: kind in (None, method["type"]))


def named(state: State, id: str, cause: Cause, param: str) -> Object:
    """Return a payment method by its id, or a new one by its test name."""
    bank = CARDS.get(id)
    if bank is not None:
        return state.add(shapes.payment_method(state, id, bank, cause))
    method = state.objects.get(id)
    if method is None or method["object"] != "payment_method":
        raise missing("PaymentMethod", id, param)
    return method


def bank_behind(state: State, id: str) -> Bank:
    """Return what answers when a payment method is charged now."""
    bank: Bank = state.get("payment_method", id)["_bank"]
    return state.forced_bank or bank
