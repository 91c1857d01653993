"""What Stripe is told to let somebody pay an order on its page, or see to their cards."""

from __future__ import annotations

from typing import Any

from sidecar.amounts import format_credits
from sidecar.billing.orders import Order


def session_of(
    order: Order,
    customer: str,
    *,
    success_url: str,
    cancel_url: str | None,
    saves_card: bool,
    is_taxed: bool,
) -> dict[str, Any]:
    """Return the parameters of the Checkout session that pays an order.

    The price is before tax; with `is_taxed` Stripe adds the tax by the address that it asks for.
    With `saves_card` the card may be charged later, when nobody is there.
    """
    what = f"{format_credits(order.credits)} credits"
    payment: dict[str, Any] = {
        "metadata": order.metadata,
        "description": f"{what} for {order.account}",
    }
    if saves_card:
        payment["setup_future_usage"] = "off_session"
    parameters: dict[str, Any] = {
        "mode": "payment",
        "customer": customer,
        "client_reference_id": order.account,
        "metadata": order.metadata,
        "payment_intent_data": payment,
        "line_items": [{"quantity": 1, "price_data": _price(order, what)}],
        "automatic_tax": {"enabled": is_taxed},
        # What is paid must be in the order's currency.
        "adaptive_pricing": {"enabled": False},
        "success_url": success_url,
    }
    if is_taxed:
        parameters["customer_update"] = {"address": "auto", "name": "auto"}
    if cancel_url is not None:
        parameters["cancel_url"] = cancel_url
    return parameters


def _price(order: Order, what: str) -> dict[str, Any]:
    return {
        "currency": order.currency,
        "unit_amount": order.price,
        "tax_behavior": "exclusive",
        "product_data": {"name": what},
    }
