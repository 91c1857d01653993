"""Subscriptions with their items, invoices with their lines and payments, discounts."""

from __future__ import annotations

from typing import Any, Final

from sidecar.dev.fake_stripe.shapes import new
from sidecar.dev.fake_stripe.state import Cause, Object, State, by_itself

_SUBSCRIPTION: Final[Object] = {
    "object": "subscription",
    "application": None,
    "application_fee_percent": None,
    "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
    "billing_cycle_anchor_config": None,
    "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
    "billing_schedules": [],
    "billing_thresholds": None,
    "cancel_at": None,
    "cancel_at_period_end": False,
    "canceled_at": None,
    "cancellation_details": {"comment": None, "feedback": None, "reason": None},
    "collection_method": "charge_automatically",
    "customer_account": None,
    "days_until_due": None,
    "default_payment_method": None,
    "default_source": None,
    "default_tax_rates": [],
    "description": None,
    "discounts": [],
    "ended_at": None,
    "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
    "latest_invoice": None,
    "metadata": {},
    "next_pending_invoice_item_invoice": None,
    "on_behalf_of": None,
    "pause_collection": None,
    "payment_settings": {
        "payment_method_options": None,
        "payment_method_types": None,
        "save_default_payment_method": "off",
    },
    "pending_invoice_item_interval": None,
    "pending_setup_intent": None,
    "pending_update": None,
    "schedule": None,
    "status": "incomplete",
    "status_details": None,
    "test_clock": None,
    "transfer_data": None,
    "trial_end": None,
    "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
    "trial_start": None,
}

_ITEM: Final[Object] = {
    "object": "subscription_item",
    "billing_thresholds": None,
    "discounts": [],
    "metadata": {},
    "tax_rates": [],
}

_INVOICE: Final[Object] = {
    "object": "invoice",
    "account_country": "US",
    "account_name": "Credit Sidecar",
    "account_tax_ids": None,
    "amount_due": 0,
    "amount_overpaid": 0,
    "amount_paid": 0,
    "amount_remaining": 0,
    "amount_shipping": 0,
    "application": None,
    "attempt_count": 0,
    "attempted": False,
    "auto_advance": True,
    "automatic_tax": {"disabled_reason": None, "enabled": False, "status": None},
    "automatically_finalizes_at": None,
    "billing_reason": "manual",
    "collection_method": "charge_automatically",
    "custom_fields": None,
    "customer_account": None,
    "customer_address": None,
    "customer_email": None,
    "customer_name": None,
    "customer_phone": None,
    "customer_shipping": None,
    "customer_tax_exempt": "none",
    "customer_tax_ids": [],
    "default_payment_method": None,
    "default_source": None,
    "default_tax_rates": [],
    "description": None,
    "discounts": [],
    "due_date": None,
    "effective_at": None,
    "ending_balance": None,
    "footer": None,
    "from_invoice": None,
    "hosted_invoice_url": None,
    "invoice_pdf": None,
    "issuer": {"type": "self"},
    "last_finalization_error": None,
    "latest_revision": None,
    "metadata": {},
    "next_payment_attempt": None,
    "number": None,
    "on_behalf_of": None,
    "parent": None,
    "payment_settings": {
        "default_mandate": None,
        "payment_method_options": None,
        "payment_method_types": None,
    },
    "post_payment_credit_notes_amount": 0,
    "pre_payment_credit_notes_amount": 0,
    "receipt_number": None,
    "rendering": None,
    "shipping_cost": None,
    "shipping_details": None,
    "starting_balance": 0,
    "statement_descriptor": None,
    "status": "draft",
    "test_clock": None,
    "total_discount_amounts": [],
    "total_pretax_credit_amounts": [],
    "total_taxes": [],
    "webhooks_delivered_at": None,
}

_LINE: Final[Object] = {
    "object": "line_item",
    "discount_amounts": [],
    "discountable": True,
    "discounts": [],
    "invoice": None,
    "metadata": {},
    "pretax_credit_amounts": [],
    "taxes": [],
}

_DISCOUNT: Final[Object] = {
    "object": "discount",
    "checkout_session": None,
    "customer_account": None,
    "invoice": None,
    "invoice_item": None,
    "promotion_code": None,
    "subscription_item": None,
}


def subscription(state: State, customer: Object, cause: Cause, **fields: Any) -> Object:
    """Return a subscription without items, which nothing has been paid for."""
    thing = new(state, "sub", _SUBSCRIPTION, cause, customer=customer["id"])
    now = state.now()
    items = {"object": "list", "data": [], "has_more": False}
    items["url"] = f"/v1/subscription_items?subscription={thing['id']}"
    moments = {"billing_cycle_anchor": now, "start_date": now}
    return thing | moments | {"items": items, "_pending_lines": [], **fields}


def item(state: State, subscription: Object, price: Object, quantity: int) -> Object:
    """Return an item of a subscription; its period is still to be set."""
    thing = new(state, "si", _ITEM, by_itself(subscription), price=price, quantity=quantity)
    del thing["livemode"]
    return thing | {"subscription": subscription["id"], "plan": plan(price)}


def plan(price: Object) -> Object:
    """Return a recurring price in its old shape, which items still carry beside it."""
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "currency": price["currency"],
        "interval": price["recurring"]["interval"],
        "interval_count": price["recurring"]["interval_count"],
        "livemode": price["livemode"],
        "product": price["product"],
        "usage_type": "licensed",
    }


def invoice(state: State, customer: Object, currency: str, reason: str, **fields: Any) -> Object:
    """Return a draft without lines."""
    thing = new(state, "in", _INVOICE, by_itself(customer))
    transitions = ("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")
    return thing | {
        "billing_reason": reason,
        "currency": currency,
        "customer": customer["id"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "period_end": state.now(),
        "period_start": state.now(),
        "status_transitions": dict.fromkeys(transitions),
        "_payment_intent": None,
        **fields,
    }


def line(
    state: State, item: Object, amount: int, start: int, end: int, *, proration: bool
) -> Object:
    """Return the line of an item for a period; `amount` in minor units, negative for a credit."""
    details = {
        "invoice_item": state.new_id("ii") if proration else None,
        "proration": proration,
        "proration_details": {"credited_items": None} if proration else None,
        "subscription": item["subscription"],
        "subscription_item": item["id"],
    }
    price = item["price"]
    return _line(state, amount, price["currency"], price["livemode"], start, end) | {
        "description": f"{item['quantity']} x {price['nickname'] or price['id']}",
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": details,
            "type": "subscription_item_details",
        },
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": item["quantity"],
        "subscription": item["subscription"],
    }


def manual_line(state: State, customer: Object, amount: int, currency: str, text: str) -> Object:
    """Return a line that belongs to no subscription."""
    now, mode = state.now(), customer["livemode"]
    details = {"invoice_item": state.new_id("ii"), "proration": False, "subscription": None}
    return _line(state, amount, currency, mode, now, now) | {
        "description": text,
        "parent": {
            "invoice_item_details": details,
            "subscription_item_details": None,
            "type": "invoice_item_details",
        },
        "pricing": None,
        "quantity": 1,
        "subscription": None,
    }


def invoice_payment(state: State, invoice: Object, payment: Object) -> Object:
    """Return what ties an invoice to the PaymentIntent that pays it."""
    return new(
        state,
        "inpay",
        {"object": "invoice_payment", "amount_paid": None, "is_default": True, "status": "open"},
        by_itself(invoice),
        amount_requested=payment["amount"],
        currency=invoice["currency"],
        invoice=invoice["id"],
        payment={"payment_intent": payment["id"], "type": "payment_intent"},
        status_transitions={"canceled_at": None, "paid_at": None},
    )


def discount(state: State, subscription: Object, coupon: Object, end: int | None) -> Object:
    """Return a coupon in use by a subscription until `end`."""
    thing = new(state, "di", _DISCOUNT, by_itself(subscription))
    for name in ("created", "livemode"):
        del thing[name]
    return thing | {
        "customer": subscription["customer"],
        "end": end,
        "source": {"coupon": coupon["id"], "type": "coupon"},
        "start": state.now(),
        "subscription": subscription["id"],
    }


def _line(state: State, amount: int, currency: str, livemode: bool, start: int, end: int) -> Object:
    thing = new(state, "il", _LINE, Cause(livemode=livemode))
    del thing["created"]
    amounts = {"amount": amount, "subtotal": amount, "currency": currency}
    return thing | amounts | {"period": {"end": end, "start": start}}
