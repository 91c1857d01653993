"""Orders: what we offered to sell to an account, fixed for ever before anybody pays.

A payment is worth what its order says, whatever became of the price list meanwhile.
"""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, select, update

from persistence.money_tables import orders
from sidecar.billing import currencies
from sidecar.billing.offers import Offer, refused, require_minimum
from sidecar.billing.topups import PURPOSE
from sidecar.domain import MAX_AMOUNT


class OrderPurpose(StrEnum):
    """Who is going to pay: a person on a page, or a stored card without one."""

    CHECKOUT = "checkout"
    AUTO_TOP_UP = "auto_top_up"


@dataclass(frozen=True, slots=True)
class Order:
    """`credits` microcredits for `price`, in the smallest unit of the currency, before tax."""

    id: str
    account: str
    purpose: OrderPurpose
    offer: str
    credits: int
    price: int
    currency: str
    created_ms: int

    @property
    def metadata(self) -> dict[str, str]:
        """What every object of Stripe's carries that pays this order."""
        return {"purpose": PURPOSE, "order_id": self.id, "account": self.account}


def make_order(
    c: Connection,
    account: str,
    purpose: OrderPurpose,
    offer: Offer,
    now_ms: int,
    *,
    credits: int | None = None,
) -> Order:
    """Write an order of what an offer sells; of a rate, of so many `credits`.

    Raises `Refusal` (422): the offer is not active, sells no such number of credits, or the price
    is below its minimum or above what Stripe charges.
    """
    amount = _amount(offer, credits)
    price = offer.price_of(amount)
    check_price(offer, price, "credits" if offer.is_rate else "offer")
    order = Order(
        id=f"ord_{uuid.uuid4().hex}",
        account=account,
        purpose=purpose,
        offer=offer.id,
        credits=amount,
        price=price,
        currency=offer.currency,
        created_ms=now_ms,
    )
    c.execute(orders.insert().values(dataclasses.asdict(order) | {"purpose": purpose.value}))
    return order


def check_price(offer: Offer, price: int, param: str) -> None:
    """Refuse (422) a price that is below the offer's minimum, or above what Stripe charges."""
    require_minimum(offer, price, param)
    if price > currencies.MOST:
        most = currencies.shown(currencies.MOST, offer.currency)
        raise refused(f"One payment can't be more than {most}.", param)


def get_order(c: Connection, id: str) -> Order | None:
    """Return an order, or None when there is none."""
    columns: list[Any] = [orders.c[field.name] for field in dataclasses.fields(Order)]
    row = c.execute(select(*columns).where(orders.c.id == id)).mappings().one_or_none()
    return None if row is None else Order(**dict(row) | {"purpose": OrderPurpose(row["purpose"])})


def set_session(c: Connection, id: str, checkout_session: str) -> None:
    """Note by which Checkout session an order may be paid."""
    change = update(orders).where(orders.c.id == id)
    c.execute(change.values(checkout_session=checkout_session))


def _amount(offer: Offer, credits: int | None) -> int:
    if not offer.is_active:
        raise refused(f"Offer {offer.id} is not sold any more.", "offer")
    if offer.is_rate and credits is None:
        raise refused(f"Offer {offer.id} is a rate: say how many credits.", "credits")
    if not offer.is_rate and credits not in (None, offer.credits):
        raise refused(f"Offer {offer.id} sells {offer.credits} microcredits.", "credits")
    amount = offer.credits if credits is None else credits
    if not 1 <= amount <= MAX_AMOUNT:
        raise refused("credits must be an integer, 1 … 2^53-1 microcredits.", "credits")
    return amount
