"""Customers: who is charged, as Stripe calls them."""

from __future__ import annotations

from typing import Any

from sidecar.dev.fake_stripe import cards
from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.shapes import customers as shapes
from sidecar.dev.fake_stripe.state import Cause, Object, State

_TEXTS = ("description", "email", "name", "phone")


def create(call: Call) -> Object:
    """Make a customer, with a payment method if one is given."""
    form, state = call.form, call.state
    fields: dict[str, Any] = {name: form.text(name) for name in _TEXTS}
    fields["metadata"] = form.metadata()
    method, default = form.text("payment_method"), _default_method(form)
    form.ignore("address", "preferred_locales", "shipping", "tax", "tax_exempt")
    form.finish()
    customer = shapes.customer(state, call.cause, **fields)
    if method is not None:
        found = cards.named(state, method, call.cause, "payment_method")
        cards.attach_to(state, found, customer["id"], call.cause)
        default = found["id"] if default == method else default
    if default is not None:
        _require_own(state, customer, default)
        customer["invoice_settings"]["default_payment_method"] = default
    state.add(customer)
    state.emit("customer.created", customer, call.cause)
    return customer


def update(call: Call) -> Object:
    """Change a customer; what is not given stays."""
    form, customer = call.form, call.found("customer")
    fields: dict[str, Any] = {name: form.text(name) for name in _TEXTS if form.has(name)}
    fields["metadata"] = form.changed_metadata(customer["metadata"])
    if form.has("balance"):
        fields["balance"] = form.integer("balance", least=-(10**12))
    default = _default_method(form)
    form.ignore("address", "preferred_locales", "shipping", "tax", "tax_exempt")
    form.finish()
    if default is not None:
        _require_own(call.state, customer, default)
        settings = customer["invoice_settings"]
        fields["invoice_settings"] = settings | {"default_payment_method": default}
    return call.state.change(customer, "customer.updated", call.cause, **fields)


def make_default(state: State, method: Object, cause: Cause) -> None:
    """Let the customer of a payment method pay with it from now on."""
    customer = state.get("customer", method["customer"])
    settings = customer["invoice_settings"] | {"default_payment_method": method["id"]}
    state.change(customer, "customer.updated", cause, invoice_settings=settings)


def default_method(state: State, customer: str) -> str | None:
    """Return the payment method that a customer's invoices are paid with."""
    found: str | None = state.get("customer", customer)["invoice_settings"][
        "default_payment_method"
    ]
    return found


def _default_method(form: Form) -> str | None:
    settings = form.part("invoice_settings")
    method = settings.text("default_payment_method")
    settings.ignore("custom_fields", "footer", "rendering_options")
    settings.finish()
    return method


def _require_own(state: State, customer: Object, method: str) -> None:
    found = state.objects.get(method)
    if found is None or found.get("customer") != customer["id"]:
        raise StripeFailure(
            f"No such PaymentMethod: '{method}'; it is not attached to this customer.",
            code="resource_missing",
            param="invoice_settings[default_payment_method]",
        )
