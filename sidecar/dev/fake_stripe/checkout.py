"""Checkout sessions: made by us, paid on a page by the customer, or expired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.dev.fake_stripe import objects, payments
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.state import Cause, Object, State

DEFAULT_CARD: Final = "pm_card_visa"


@dataclass(frozen=True, slots=True)
class _Line:
    currency: str
    amount: int


def create(state: State, url_base: str, form: Form, cause: Cause) -> Object:
    """Make a session for one payment. What its PaymentIntent will carry is kept beside it."""
    mode = form.required("mode")
    if mode != "payment":
        raise StripeFailure(f"This fake has no sessions of mode {mode}.", param="mode")
    lines = [_line(part) for part in form.parts("line_items")]
    if not lines:
        raise StripeFailure("Give at least one line item.", param="line_items")
    if len({line.currency for line in lines}) > 1:
        raise StripeFailure("All line items must have one currency.", param="line_items")
    session = objects.checkout_session(
        state,
        url_base,
        sum(line.amount for line in lines),
        lines[0].currency,
        cause,
        success_url=form.required("success_url"),
        cancel_url=form.text("cancel_url"),
        customer=form.text("customer"),
        customer_email=form.text("customer_email"),
        client_reference_id=form.text("client_reference_id"),
        metadata=form.metadata(),
    )
    for_payment = form.part("payment_intent_data")
    session["payment_intent_data"] = {
        "metadata": for_payment.metadata(),
        "description": for_payment.text("description"),
        "setup_future_usage": for_payment.text("setup_future_usage"),
    }
    for_payment.finish()
    form.finish()
    return state.add(session)


def pay(state: State, id: str, card: str, cause: Cause) -> Object:
    """Pay a session, as its page does. Raises `StripeFailure` when it is over, or declined."""
    session = state.get("checkout.session", id)
    _require_open(session)
    if card not in payments.CARDS:
        raise StripeFailure(f"No such PaymentMethod: '{card}'", param="payment_method")
    payment = state.add(
        objects.payment_intent(
            state,
            session["amount_total"],
            session["currency"],
            cause,
            customer=session["customer"],
            payment_method=card,
            **session["payment_intent_data"],
        )
    )
    state.emit("payment_intent.created", payment, cause)
    payments.try_charge(state, payment, cause)
    session.update(status="complete", payment_status="paid", payment_intent=payment["id"], url=None)
    state.emit("checkout.session.completed", public(session), cause)
    return session


def expire(state: State, id: str, form: Form, cause: Cause) -> Object:
    """End a session that nobody has paid."""
    session = state.get("checkout.session", id)
    form.finish()
    _require_open(session)
    session.update(status="expired", url=None)
    state.emit("checkout.session.expired", public(session), cause)
    return session


def public(session: Object) -> Object:
    """Return a session as Stripe shows it: what its payment will carry is never told."""
    return {name: value for name, value in session.items() if name != "payment_intent_data"}


def _line(form: Form) -> _Line:
    quantity = form.integer("quantity", least=1) or 1
    price = form.part("price_data")
    currency = price.required("currency").lower()
    amount = price.integer("unit_amount")
    if amount is None:
        price.required("unit_amount")
    product = price.part("product_data")
    product.required("name")
    product.text("description")
    product.finish()
    price.finish()
    form.finish()
    return _Line(currency, (amount or 0) * quantity)


def _require_open(session: Object) -> None:
    if session["status"] != "open":
        raise StripeFailure(f"This Checkout Session is {session['status']}.")
