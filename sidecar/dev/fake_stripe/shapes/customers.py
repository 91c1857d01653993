"""Customers and their payment methods."""

from __future__ import annotations

from typing import Any, Final

from sidecar.dev.fake_stripe.shapes import new
from sidecar.dev.fake_stripe.state import Bank, Cause, Object, State

_CUSTOMER: Final[Object] = {
    "object": "customer",
    "address": None,
    "balance": 0,
    "currency": None,
    "customer_account": None,
    "default_source": None,
    "delinquent": False,
    "description": None,
    "email": None,
    "invoice_prefix": "FAKE0001",
    "invoice_settings": {
        "custom_fields": None,
        "default_payment_method": None,
        "footer": None,
        "rendering_options": None,
    },
    "metadata": {},
    "name": None,
    "next_invoice_sequence": 1,
    "phone": None,
    "preferred_locales": [],
    "shipping": None,
    "tax_exempt": "none",
    "test_clock": None,
}

_PAYMENT_METHOD: Final[Object] = {
    "object": "payment_method",
    "allow_redisplay": "unspecified",
    "billing_details": {
        "address": None,
        "email": None,
        "name": None,
        "phone": None,
        "tax_id": None,
    },
    "customer": None,
    "customer_account": None,
    "metadata": {},
}

_CARD: Final[Object] = {
    "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
    "country": "US",
    "exp_month": 12,
    "exp_year": 2034,
    "fingerprint": "FakeFakeFakeFake",
    "funding": "credit",
    "generated_from": None,
    "networks": {"available": ["visa"], "preferred": None},
    "regulated_status": "unregulated",
    "three_d_secure_usage": {"supported": True},
    "wallet": None,
}


def customer(state: State, cause: Cause, **fields: Any) -> Object:
    """Return a customer without a payment method."""
    return new(state, "cus", _CUSTOMER, cause, **fields)


def payment_method(state: State, name: str, bank: Bank, cause: Cause) -> Object:
    """Return a payment method of a test name, of no customer yet."""
    method = new(state, "pm", _PAYMENT_METHOD, cause, _name=name, _bank=bank)
    if bank.is_delayed:
        return method | {"type": "sepa_debit", "sepa_debit": {"country": "DE", "last4": "3000"}}
    brand, last4 = ("mastercard", "4444") if "mastercard" in name else ("visa", "4242")
    card = _CARD | {"brand": brand, "display_brand": brand, "last4": last4}
    return method | {"type": "card", "card": card}
