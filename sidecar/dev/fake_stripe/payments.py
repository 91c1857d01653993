"""PaymentIntents: made, confirmed, cancelled. The bank behind the card says what comes of it."""

from __future__ import annotations

from typing import Final

from sidecar.dev.fake_stripe import cards, charges
from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.shapes import payments as shapes
from sidecar.dev.fake_stripe.state import Bank, Cause, Object, State, by_itself, public

_OPEN: Final = ("requires_payment_method", "requires_confirmation", "requires_action")


def create(call: Call) -> Object:
    """Make a PaymentIntent, and confirm it if that is asked for."""
    form, state = call.form, call.state
    amount = form.integer("amount", least=1)
    if amount is None:
        form.required("amount")
    payment = shapes.payment_intent(
        state,
        amount or 0,
        form.required("currency").lower(),
        call.cause,
        customer=_customer(state, form),
        description=form.text("description"),
        receipt_email=form.text("receipt_email"),
        setup_future_usage=form.text("setup_future_usage"),
        statement_descriptor_suffix=form.text("statement_descriptor_suffix"),
        metadata=form.metadata(),
    )
    method = form.text("payment_method")
    confirm_now = form.flag("confirm")
    no_action = _take_confirmation(form)
    form.finish()
    choose_method(state, payment, method, call.cause)
    if confirm_now and payment["payment_method"] is None:
        raise _without_method()
    state.add(payment)
    state.emit("payment_intent.created", payment, call.cause)
    if not confirm_now:
        return payment
    return try_charge(state, payment, call.cause, may_ask=not no_action)


def confirm(call: Call) -> Object:
    """Confirm a PaymentIntent that is still open."""
    payment = call.found("payment_intent")
    method = call.form.text("payment_method")
    no_action = _take_confirmation(call.form)
    call.form.finish()
    _require_open(payment, "confirm")
    choose_method(call.state, payment, method, call.cause)
    if payment["payment_method"] is None:
        raise _without_method()
    return try_charge(call.state, payment, call.cause, may_ask=not no_action)


def cancel(call: Call) -> Object:
    """Cancel a PaymentIntent that is still open."""
    payment = call.found("payment_intent")
    reason = call.form.text("cancellation_reason")
    call.form.finish()
    _require_open(payment, "cancel")
    payment.update(status="canceled", canceled_at=call.state.now(), cancellation_reason=reason)
    payment["next_action"] = None
    call.state.emit("payment_intent.canceled", payment, call.cause)
    return payment


def update(call: Call) -> Object:
    """Change what a PaymentIntent says; Stripe tells of it with no event."""
    payment, form = call.found("payment_intent"), call.form
    metadata = form.changed_metadata(payment["metadata"])
    description = form.text("description") if form.has("description") else payment["description"]
    form.finish()
    payment.update(metadata=metadata, description=description)
    return payment


def try_charge(state: State, payment: Object, cause: Cause, *, may_ask: bool = False) -> Object:
    """Charge the card. Raises `StripeFailure` (402) when its bank declines.

    A bank that asks for authentication makes the payment wait for it if it `may_ask`.
    """
    bank = cards.bank_behind(state, payment["payment_method"])
    if bank.asks_for_authentication and may_ask:
        return _ask(state, payment, cause)
    if bank.asks_for_authentication:
        bank = cards.declining("authentication_required")
    charge = charges.begin(state, payment, cause)
    if bank.is_delayed:
        return _process(state, payment, charge, cause)
    if bank.decline_code is not None:
        raise _decline(state, payment, charge, bank, cause)
    return _succeed(state, payment, charge, cause)


def authenticate(state: State, payment: Object) -> Object:
    """Let the customer authenticate a payment that waits for it, so that it succeeds."""
    if payment["status"] != "requires_action":
        raise StripeFailure("This PaymentIntent does not wait for authentication.")
    cause = by_itself(payment)
    return _succeed(state, payment, charges.begin(state, payment, cause), cause)


def settle(state: State, payment: Object, *, is_paid: bool) -> Object:
    """Decide a delayed payment that still processes. Raises `StripeFailure` for another."""
    if payment["status"] != "processing":
        raise StripeFailure("This PaymentIntent does not process.")
    cause, charge = by_itself(payment), state.get("charge", payment["latest_charge"])
    if is_paid:
        _succeed(state, payment, charge, cause)
    else:
        _decline(state, payment, charge, cards.declining("insufficient_funds"), cause)
    return payment


def choose_method(state: State, payment: Object, method: str | None, cause: Cause) -> None:
    """Let a PaymentIntent be paid with a payment method. Raises `StripeFailure`."""
    if method is None:
        return
    found = cards.named(state, method, cause, "payment_method")
    if found["customer"] not in (None, payment["customer"]):
        raise StripeFailure(
            "The PaymentMethod provided belongs to another Customer; give it as `customer`.",
            param="payment_method",
        )
    payment.update(payment_method=found["id"], status="requires_confirmation")
    payment["payment_method_types"] = [found["type"]]


def _succeed(state: State, payment: Object, charge: Object, cause: Cause) -> Object:
    charges.succeed(state, charge, cause)
    payment.update(status="succeeded", amount_received=payment["amount"])
    payment.update(last_payment_error=None, next_action=None, processing=None)
    state.emit("payment_intent.succeeded", payment, cause)
    if payment["setup_future_usage"] and payment["customer"]:
        method = state.get("payment_method", payment["payment_method"])
        cards.attach_to(state, method, payment["customer"], cause)
    _tell_settled(state, payment, cause, is_paid=True)
    return payment


def _process(state: State, payment: Object, charge: Object, cause: Cause) -> Object:
    payment["status"] = "processing"
    state.emit("payment_intent.processing", payment, cause)
    state.emit("charge.pending", charge, cause)

    def decide() -> None:
        if payment["status"] == "processing":
            bank = cards.bank_behind(state, charge["payment_method"])
            settle(state, payment, is_paid=bank.decline_code is None)

    state.clock.at(state.now() + state.settings.settle_seconds, decide)
    return payment


def _ask(state: State, payment: Object, cause: Cause) -> Object:
    payment["status"] = "requires_action"
    payment["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {}}
    state.emit("payment_intent.requires_action", payment, cause)
    return payment


def _decline(
    state: State, payment: Object, charge: Object, bank: Bank, cause: Cause
) -> StripeFailure:
    error = charges.fail(state, charge, bank, cause)
    method = public(state.get("payment_method", charge["payment_method"]))
    payment.update(
        status="requires_payment_method",
        payment_method=None,
        next_action=None,
        last_payment_error={"type": "card_error", "payment_method": method} | error,
    )
    state.emit("payment_intent.payment_failed", payment, cause)
    _tell_settled(state, payment, cause, is_paid=False)
    fields = error | {"payment_intent": public(payment), "payment_method": method}
    return StripeFailure(
        fields.pop("message"), status=402, kind="card_error", is_kept=True, **fields
    )


def _tell_settled(state: State, payment: Object, cause: Cause, *, is_paid: bool) -> None:
    tell = state.when_settled.get(payment["id"])
    if tell is not None:
        tell(is_paid, cause)


def _customer(state: State, form: Form) -> str | None:
    id = form.text("customer")
    return id and str(state.get("customer", id, "customer")["id"])


def _take_confirmation(form: Form) -> bool:
    """Take how to confirm, and return whether a wish for authentication is a decline."""
    form.ignore("return_url", "payment_method_types", "payment_method_options", "mandate_data")
    off_session, no_action = form.flag("off_session"), form.flag("error_on_requires_action")
    methods = form.part("automatic_payment_methods")
    methods.ignore("enabled", "allow_redirects")
    methods.finish()
    return off_session or no_action


def _require_open(payment: Object, verb: str) -> None:
    if payment["status"] not in _OPEN:
        raise StripeFailure(
            f"You cannot {verb} this PaymentIntent because it has a status of {payment['status']}.",
            code="payment_intent_unexpected_state",
            payment_intent=public(payment),
        )


def _without_method() -> StripeFailure:
    return StripeFailure(
        "You cannot confirm this PaymentIntent because it's missing a payment method. Try "
        "payment_method=pm_card_visa.",
        code="payment_intent_unexpected_state",
    )
