"""The shapes of objects when they are new, with all their usual fields."""

from __future__ import annotations

import copy
from typing import Any, Final

from sidecar.dev.fake_stripe.state import Cause, Object, State

_PAYMENT_INTENT: Final[Object] = {
    "object": "payment_intent",
    "amount_capturable": 0,
    "amount_details": {"tip": {}},
    "amount_received": 0,
    "application": None,
    "application_fee_amount": None,
    "automatic_payment_methods": {"allow_redirects": "always", "enabled": True},
    "canceled_at": None,
    "cancellation_reason": None,
    "capture_method": "automatic_async",
    "confirmation_method": "automatic",
    "customer": None,
    "customer_account": None,
    "description": None,
    "excluded_payment_method_types": None,
    "last_payment_error": None,
    "latest_charge": None,
    "metadata": {},
    "next_action": None,
    "on_behalf_of": None,
    "payment_method": None,
    "payment_method_configuration_details": None,
    "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
    "payment_method_types": ["card"],
    "processing": None,
    "receipt_email": None,
    "review": None,
    "setup_future_usage": None,
    "shipping": None,
    "source": None,
    "statement_descriptor": None,
    "statement_descriptor_suffix": None,
    "status": "requires_payment_method",
    "transfer_data": None,
    "transfer_group": None,
}

_CHARGE: Final[Object] = {
    "object": "charge",
    "amount_captured": 0,
    "amount_refunded": 0,
    "application": None,
    "application_fee": None,
    "application_fee_amount": None,
    # The fee is known a moment later: Stripe tells it with `charge.updated`.
    "balance_transaction": None,
    "billing_details": {
        "address": None,
        "email": None,
        "name": None,
        "phone": None,
        "tax_id": None,
    },
    "calculated_statement_descriptor": "CREDIT SIDECAR DEV",
    "captured": False,
    "disputed": False,
    "failure_balance_transaction": None,
    "failure_code": None,
    "failure_message": None,
    "fraud_details": {},
    "on_behalf_of": None,
    "outcome": None,
    "paid": False,
    "payment_method_details": {
        "card": {"brand": "visa", "country": "US", "funding": "credit", "last4": "4242"},
        "type": "card",
    },
    "receipt_email": None,
    "receipt_number": None,
    "receipt_url": None,
    "refunded": False,
    "review": None,
    "shipping": None,
    "source": None,
    "source_transfer": None,
    "statement_descriptor": None,
    "statement_descriptor_suffix": None,
    "status": "pending",
    "transfer_data": None,
    "transfer_group": None,
}

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


def payment_intent(state: State, amount: int, currency: str, cause: Cause, **fields: Any) -> Object:
    """Return a PaymentIntent that waits for a payment method; `amount` in minor units."""
    id = state.new_id("pi")
    changing: Object = {
        "id": id,
        "amount": amount,
        "client_secret": f"{id}_secret_{state.new_id('')[1:]}",
        "created": state.now(),
        "currency": currency,
        "livemode": cause.livemode,
    }
    return changing | copy.deepcopy(_PAYMENT_INTENT) | fields


def charge(state: State, payment: Object, cause: Cause) -> Object:
    """Return a charge of a PaymentIntent that has been tried and not decided."""
    changing: Object = {
        "id": state.new_id("ch"),
        "amount": payment["amount"],
        "created": state.now(),
        "currency": payment["currency"],
        "customer": payment["customer"],
        "description": payment["description"],
        "livemode": cause.livemode,
        "metadata": dict(payment["metadata"]),
        "payment_intent": payment["id"],
        "payment_method": payment["payment_method"],
    }
    return changing | copy.deepcopy(_CHARGE)


def checkout_session(
    state: State, url_base: str, amount: int, currency: str, cause: Cause, **fields: Any
) -> Object:
    """Return an open Checkout session for one payment; `amount` in minor units."""
    mode = "live" if cause.livemode else "test"
    id = state.new_id(f"cs_{mode}")
    changing: Object = {
        "id": id,
        "amount_subtotal": amount,
        "amount_total": amount,
        "created": state.now(),
        "currency": currency,
        "expires_at": state.now() + 86_400,
        "livemode": cause.livemode,
        "url": f"{url_base}/pay/{id}",
    }
    return changing | copy.deepcopy(_CHECKOUT_SESSION) | fields
