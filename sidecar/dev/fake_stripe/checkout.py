"""Checkout sessions: made by us, paid on a page by the customer, or expired."""

from __future__ import annotations

import dataclasses
from typing import Any

from sidecar.dev.fake_stripe import cards, catalogue, discounts, payments, subscriptions
from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.items import Wish
from sidecar.dev.fake_stripe.lists import page
from sidecar.dev.fake_stripe.shapes import checkout as shapes
from sidecar.dev.fake_stripe.shapes import customers as customer_shapes
from sidecar.dev.fake_stripe.shapes import payments as payment_shapes
from sidecar.dev.fake_stripe.state import Cause, Object, State, by_itself
from sidecar.dev.fake_stripe.terms import take as take_terms

_MEANINGLESS = (
    *("allow_promotion_codes", "billing_address_collection", "consent_collection", "custom_text"),
    *("customer_update", "invoice_creation", "locale", "payment_method_collection"),
    *("payment_method_options", "payment_method_types", "phone_number_collection"),
    *("saved_payment_method_options", "submit_type", "tax_id_collection"),
)


def create(call: Call) -> Object:
    """Make a session. What its payment or subscription will carry is kept beside it."""
    form, state = call.form, call.state
    mode = form.required("mode")
    if mode not in ("payment", "subscription"):
        raise StripeFailure(f"This fake has no sessions of mode {mode}.", param="mode")
    lines = [_line(state, part, call.cause) for part in form.parts("line_items")]
    _require_lines(lines, mode)
    fields = _fields(state, form) | {"mode": mode, "_line_items": lines}
    fields |= _later(state, form)
    form.ignore(*_MEANINGLESS)
    form.finish()
    total, currency = sum(line["amount_total"] for line in lines), lines[0]["currency"]
    session = shapes.checkout_session(state, call.url_base, total, currency, call.cause, **fields)
    if mode == "subscription":
        _lessen(state, session)
    return state.add(session)


def pay(state: State, session: Object, card: str, cause: Cause) -> Object:
    """Pay a session, as its page does. Raises `StripeFailure` when it is over, or declined."""
    _require_open(session)
    method = cards.named(state, card, cause, "payment_method")
    if session["mode"] == "payment":
        _pay_once(state, session, method, cause)
    else:
        _subscribe(state, session, method, cause)
    session.update(status="complete", url=None)
    session["customer_details"] = _details(state, session)
    state.emit("checkout.session.completed", session, cause)
    return session


def expire(call: Call) -> Object:
    """End a session that nobody has paid."""
    session = call.found("checkout.session")
    call.form.finish()
    _require_open(session)
    session.update(status="expired", url=None)
    call.state.emit("checkout.session.expired", session, call.cause)
    return session


def line_items(call: Call) -> Object:
    """List what a session sells."""
    session = call.found("checkout.session")
    return page(call.form, f"/v1/checkout/sessions/{call.id}/line_items", session["_line_items"])


def _pay_once(state: State, session: Object, method: Object, cause: Cause) -> None:
    later = session["_payment_intent_data"]
    if session["customer"] is None and (
        session["customer_creation"] == "always" or later["setup_future_usage"]
    ):
        session["customer"] = _new_customer(state, session, cause)
    fields = {"customer": session["customer"], **later}
    total, currency = session["amount_total"], session["currency"]
    payment = state.add(payment_shapes.payment_intent(state, total, currency, cause, **fields))
    payments.choose_method(state, payment, method["id"], cause)
    state.emit("payment_intent.created", payment, cause)
    payments.try_charge(state, payment, cause)
    session["payment_intent"] = payment["id"]
    if payment["status"] == "succeeded":
        session["payment_status"] = "paid"
        return
    state.when_settled[payment["id"]] = lambda is_paid, _: _settle(state, session, is_paid)


def _subscribe(state: State, session: Object, method: Object, cause: Cause) -> None:
    if session["customer"] is None:
        session["customer"] = _new_customer(state, session, cause)
    cards.attach_to(state, method, session["customer"], cause)
    lines = session["_line_items"]
    terms = dataclasses.replace(
        session["_terms"],
        items=[Wish(None, line["price"], line["quantity"], {}, False) for line in lines],
        method=method["id"],
        payment_behavior="error_if_incomplete",
    )
    customer = state.get("customer", session["customer"])
    subscription = subscriptions.start(state, customer, terms, cause)
    invoice = state.objects[subscription["latest_invoice"]]
    session.update(subscription=subscription["id"], invoice=invoice["id"])
    is_free = invoice["amount_due"] == 0
    session["payment_status"] = "no_payment_required" if is_free else "paid"
    if invoice["status"] == "open":
        session["payment_status"] = "unpaid"
        _settle_with(state, session, invoice)


def _settle_with(state: State, session: Object, invoice: Object) -> None:
    """Let a session be settled when the delayed payment of its invoice is."""
    payment = invoice["_payment_intent"]
    settle_invoice = state.when_settled[payment]

    def settle(is_paid: bool, cause: Cause) -> None:
        settle_invoice(is_paid, cause)
        if session["payment_status"] == "unpaid":
            _settle(state, session, is_paid)

    state.when_settled[payment] = settle


def _settle(state: State, session: Object, is_paid: bool) -> None:
    """Tell what became of a session that completed before its money came."""
    if is_paid:
        session["payment_status"] = "paid"
    outcome = "succeeded" if is_paid else "failed"
    state.emit(f"checkout.session.async_payment_{outcome}", session, by_itself(session))


def _fields(state: State, form: Form) -> dict[str, Any]:
    customer = form.text("customer")
    if customer is not None:
        state.get("customer", customer, "customer")
    tax = form.part("automatic_tax")
    is_taxed = tax.flag("enabled")
    tax.ignore("liability")
    tax.finish()
    adaptive = form.part("adaptive_pricing")
    is_adaptive = adaptive.flag("enabled")
    adaptive.finish()
    status = "complete" if is_taxed else None
    fields: dict[str, Any] = {
        "success_url": form.required("success_url"),
        "cancel_url": form.text("cancel_url"),
        "customer": customer,
        "customer_creation": form.choice("customer_creation", "if_required", "always"),
        "customer_email": form.text("customer_email"),
        "client_reference_id": form.text("client_reference_id"),
        "metadata": form.metadata(),
        "adaptive_pricing": {"enabled": is_adaptive},
        "automatic_tax": {"enabled": is_taxed, "liability": None, "status": status},
    }
    expires_at = form.integer("expires_at")
    return fields | ({"expires_at": expires_at} if expires_at else {})


def _later(state: State, form: Form) -> dict[str, Any]:
    """Take what the PaymentIntent or the subscription of a session will carry."""
    data = form.part("payment_intent_data")
    fields = {
        "metadata": data.metadata(),
        "description": data.text("description"),
        "receipt_email": data.text("receipt_email"),
        "setup_future_usage": data.text("setup_future_usage"),
    }
    data.ignore("statement_descriptor", "statement_descriptor_suffix")
    data.finish()
    data = form.part("subscription_data")
    terms = take_terms(state, data)
    terms.coupons = discounts.take(state, form) or []
    data.ignore("proration_behavior", "billing_mode")
    data.finish()
    return {"_payment_intent_data": fields, "_terms": terms}


def _lessen(state: State, session: Object) -> None:
    """Take off what the trial and the coupons of a subscription's session are worth."""
    terms, total = session["_terms"], session["amount_total"]
    off = total if terms.trial_end_at(state.now()) else 0
    for coupon in terms.coupons:
        share = round(total * (coupon["percent_off"] or 0) / 100)
        off += min(share + (coupon["amount_off"] or 0), total - off)
    session["amount_total"] = total - off
    session["total_details"]["amount_discount"] = off


def _line(state: State, form: Form, cause: Cause) -> Object:
    quantity = form.integer("quantity", least=1) or 1
    price = catalogue.price_of(state, form, cause)
    form.ignore("adjustable_quantity", "tax_rates")
    form.finish()
    amount = price["unit_amount"] * quantity
    return {
        "id": state.new_id("li"),
        "object": "item",
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": price["currency"],
        "description": state.objects[price["product"]]["name"],
        "metadata": {},
        "price": price,
        "quantity": quantity,
    }


def _require_lines(lines: list[Object], mode: str) -> None:
    if not lines:
        raise StripeFailure("Give at least one line item.", param="line_items")
    if len({line["currency"] for line in lines}) > 1:
        raise StripeFailure("All line items must have one currency.", param="line_items")
    kind = "recurring" if mode == "subscription" else "one_time"
    if any(line["price"]["type"] != kind for line in lines):
        message = f"Recurring prices and mode {mode} do not go together."
        raise StripeFailure(message, param="line_items")


def _new_customer(state: State, session: Object, cause: Cause) -> str:
    email = session["customer_email"]
    customer = state.add(customer_shapes.customer(state, cause, email=email))
    state.emit("customer.created", customer, cause)
    return str(customer["id"])


def _details(state: State, session: Object) -> Object:
    customer = state.objects.get(session["customer"] or "", {})
    email = session["customer_email"] or customer.get("email")
    fields = ("address", "business_name", "individual_name", "name", "phone", "tax_ids")
    return {"email": email, "tax_exempt": "none"} | dict.fromkeys(fields)


def _require_open(session: Object) -> None:
    if session["status"] != "open":
        raise StripeFailure(f"This Checkout Session is {session['status']}.")
