"""Checkout sessions and sessions of the billing portal."""

from __future__ import annotations

from typing import Any, Final

from sidecar.dev.fake_stripe.shapes import new
from sidecar.dev.fake_stripe.state import Cause, Object, State

_CHECKOUT_SESSION: Final[Object] = {
    "object": "checkout.session",
    "adaptive_pricing": {"enabled": False},
    "after_expiration": None,
    "allow_promotion_codes": None,
    "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
    "billing_address_collection": None,
    "cancel_url": None,
    "client_reference_id": None,
    "client_secret": None,
    "consent": None,
    "consent_collection": None,
    "currency_conversion": None,
    "custom_fields": [],
    "customer": None,
    "customer_account": None,
    "customer_creation": "if_required",
    "customer_details": None,
    "customer_email": None,
    "discounts": [],
    "invoice": None,
    "invoice_creation": {"enabled": False},
    "locale": None,
    "metadata": {},
    "mode": "payment",
    "payment_intent": None,
    "payment_link": None,
    "payment_method_collection": "if_required",
    "payment_method_options": {},
    "payment_method_types": ["card"],
    "payment_status": "unpaid",
    "phone_number_collection": {"enabled": False},
    "recovered_from": None,
    "saved_payment_method_options": None,
    "setup_intent": None,
    "shipping_address_collection": None,
    "shipping_cost": None,
    "shipping_options": [],
    "status": "open",
    "submit_type": None,
    "subscription": None,
    "success_url": None,
    "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
    "ui_mode": "hosted",
}

_PORTAL_SESSION: Final[Object] = {
    "object": "billing_portal.session",
    "configuration": "bpc_fake",
    "customer_account": None,
    "flow": None,
    "locale": None,
    "on_behalf_of": None,
    "return_url": None,
}


def checkout_session(
    state: State, url_base: str, amount: int, currency: str, cause: Cause, **fields: Any
) -> Object:
    """Return an open Checkout session; `amount` in minor units."""
    mode = "live" if cause.livemode else "test"
    session = new(state, f"cs_{mode}", _CHECKOUT_SESSION, cause, currency=currency)
    session["total_details"]["amount_tax"] = state.settings.tax_amount
    return session | {
        "amount_subtotal": amount,
        "amount_total": amount + state.settings.tax_amount,
        "expires_at": state.now() + 86_400,
        "url": f"{url_base}/pay/{session['id']}",
        **fields,
    }


def portal_session(state: State, url_base: str, cause: Cause, **fields: Any) -> Object:
    """Return a session of the billing portal."""
    session = new(state, "bps", _PORTAL_SESSION, cause, **fields)
    return session | {"url": f"{url_base}/portal/{session['id']}"}
