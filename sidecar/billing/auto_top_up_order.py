"""The order of an auto top-up, and the parameters of its charge."""

from __future__ import annotations

import json

from sqlalchemy import Connection

from sidecar.billing import offers
from sidecar.billing.orders import Order, OrderPurpose, make_order


def write_order(c: Connection, account: str, credits: int, now_ms: int) -> Order:
    """Write the order of an auto top-up, at the rate of the price list.

    Raises `Refusal` (422): there is no rate, or it does not sell so few or so many credits.
    """
    rate = offers.rate_for(c)
    if rate is None:
        raise offers.refused("The price list has no active rate for auto top-up.", "offer")
    return make_order(c, account, OrderPurpose.AUTO_TOP_UP, rate, now_ms, credits=credits)


def check_amount(c: Connection, amount: int) -> None:
    """Refuse (422) an amount that the price list does not sell. Without a rate any will do."""
    rate = offers.rate_for(c)
    if rate is not None:
        offers.require_minimum(rate, rate.price_of(amount), "amount")


def parameters_of(order: Order, customer: str, payment_method: str) -> str:
    """Return what is sent to charge an order, as JSON: it is kept, and sent the same each time.

    The payer is not there: what needs them is refused at once, also by ways that lead elsewhere.
    """
    parameters = {
        "amount": order.price,
        "currency": order.currency,
        "customer": customer,
        "payment_method": payment_method,
        "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        "off_session": True,
        "confirm": True,
        "error_on_requires_action": True,
        "description": f"Auto top-up of {order.account}",
        "metadata": order.metadata,
    }
    return json.dumps(parameters, separators=(",", ":"))
