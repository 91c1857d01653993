"""Subscriptions and invoices as Stripe shows them, made by hand."""

from __future__ import annotations

from typing import Any

DAY = 86_400
MONTH = 30 * DAY
START = 1_800_000_000
"""The start of the first period, in Unix seconds; a bit later than these tests run."""

Object = dict[str, Any]


def item(
    id: str = "si_1", price: str = "price_pro", quantity: int | None = 1, **changes: Any
) -> Object:
    """Return an item of a subscription, in its first period."""
    made = {
        "id": id,
        "object": "subscription_item",
        "price": {"id": price, "object": "price"},
        "quantity": quantity,
        "current_period_start": START,
        "current_period_end": START + MONTH,
    }
    return made | changes


def subscription(
    id: str = "sub_1", status: str = "active", items: list[Object] | None = None, **changes: Any
) -> Object:
    """Return a subscription of the account `acme`."""
    data = [item()] if items is None else items
    made = {
        "id": id,
        "object": "subscription",
        "customer": "cus_1",
        "status": status,
        "metadata": {"account": "acme"},
        "items": {"object": "list", "data": data, "has_more": False},
        "cancel_at_period_end": False,
        "cancel_at": None,
        "trial_start": None,
        "trial_end": None,
        "pause_collection": None,
    }
    return made | changes


def line(
    id: str = "si_1",
    price: str = "price_pro",
    quantity: int | None = 1,
    start: int = START,
    end: int | None = None,
    amount: int = 2_000,
    **details: Any,
) -> Object:
    """Return a line about an item of a subscription; `details` are about a proration."""
    where = {
        "invoice_item": None,
        "proration": False,
        "proration_details": None,
        "subscription": "sub_1",
        "subscription_item": id,
    }
    return {
        "id": f"il_{id}_{start}_{quantity}",
        "object": "line_item",
        "amount": amount,
        "currency": "usd",
        "quantity": quantity,
        "period": {"start": start, "end": start + MONTH if end is None else end},
        "parent": {
            "type": "subscription_item_details",
            "invoice_item_details": None,
            "subscription_item_details": where | details,
        },
        "pricing": {"type": "price_details", "price_details": {"price": price, "product": "p"}},
    }


def credit(
    quantity: int = 1, at: int = START, price: str = "price_pro", id: str = "si_1"
) -> Object:
    """Return the line that gives back what was paid for the rest of a period."""
    items = {"invoice": "in_0", "invoice_line_items": ["il_0"]}
    more = {"proration": True, "proration_details": {"credited_items": items}}
    return line(id, price, quantity, at, START + MONTH, -900, **more)


def debit(quantity: int = 1, at: int = START, price: str = "price_pro", id: str = "si_1") -> Object:
    """Return the line that charges for the rest of a period after a change."""
    more = {"proration": True, "proration_details": {"credited_items": None}}
    return line(id, price, quantity, at, START + MONTH, 1_000, **more)


def as_invoice_item(made: Object) -> Object:
    """Return a proration as the classic mode has it: it names no item of the subscription."""
    details = made["parent"]["subscription_item_details"]
    where = {
        "invoice_item": f"ii_{made['id']}",
        "proration": True,
        "proration_details": details["proration_details"],
        "subscription": "sub_1",
    }
    parent = {
        "type": "invoice_item_details",
        "invoice_item_details": where,
        "subscription_item_details": None,
    }
    return made | {"parent": parent}


def invoice(
    id: str = "in_1",
    lines: list[Object] | None = None,
    reason: str = "subscription_create",
    status: str = "paid",
    **changes: Any,
) -> Object:
    """Return an invoice of the subscription `sub_1`."""
    data = [line()] if lines is None else lines
    made = {
        "id": id,
        "object": "invoice",
        "customer": "cus_1",
        "status": status,
        "billing_reason": reason,
        "amount_paid": 2_000 if status == "paid" else 0,
        "currency": "usd",
        "status_transitions": {"paid_at": None},
        "parent": {
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {"metadata": {"account": "acme"}, "subscription": "sub_1"},
        },
        "lines": {"object": "list", "data": data, "has_more": False},
    }
    return made | changes
