"""The order of an auto top-up, and the parameters of its charge."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, select

from persistence.money_tables import offers, orders
from sidecar.billing.topups import PURPOSE
from sidecar.errors import ErrorCode, Refusal


@dataclass(frozen=True, slots=True)
class Order:
    """What is bought, at which price: in the smallest unit of the currency."""

    id: str
    account: str
    credits: int
    price: int
    currency: str


def write_order(c: Connection, account: str, credits: int, now_ms: int) -> Order:
    """Write the order of an auto top-up at the price list's rate. Raises `Refusal` (422)."""
    query = select(offers).where(offers.c.is_rate, offers.c.is_active).order_by(offers.c.id)
    rate = c.execute(query.limit(1)).mappings().one_or_none()
    if rate is None:
        raise Refusal(ErrorCode.INVALID_REQUEST, "The price list has no rate.")
    price = -(-credits * rate["price"] // rate["credits"])
    if price < rate["minimum_price"]:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"{credits} microcredits are below the minimum.")
    order = Order(f"order_{uuid.uuid4().hex}", account, credits, price, rate["currency"])
    row = {
        "id": order.id,
        "account": account,
        "purpose": "auto_top_up",
        "offer": rate["id"],
        "credits": credits,
        "price": price,
        "currency": order.currency,
        "created_ms": now_ms,
    }
    c.execute(orders.insert().values(row))
    return order


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
        "metadata": {"purpose": PURPOSE, "order_id": order.id, "account": order.account},
    }
    return json.dumps(parameters, separators=(",", ":"))
