"""The price list: packs of credits at a price, and rates for any number of credits.

Changing it changes no order: what was offered to somebody stands as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select, text
from sqlalchemy.dialects.postgresql import insert

from persistence.cursors import Page, decode_cursor, page_of
from persistence.money_tables import offers
from sidecar.billing import currencies
from sidecar.errors import ErrorCode, Refusal


@dataclass(frozen=True, slots=True)
class Offer:
    """What is sold: `credits` microcredits for `price`, in the smallest unit, before tax.

    A rate (`is_rate`) sells any number of credits in proportion, from `minimum_price` up.
    """

    id: str
    credits: int
    price: int
    currency: str
    is_rate: bool
    minimum_price: int
    is_active: bool
    created_ms: int
    updated_ms: int

    def price_of(self, credits: int) -> int:
        """Return the price of `credits` microcredits in proportion, rounded up."""
        exact_up = -(-credits * self.price // self.credits)
        return currencies.round_up(exact_up, self.currency)


FIELDS: Final = tuple(field.name for field in dataclasses.fields(Offer))
_COLUMNS: Final = tuple(offers.c[name] for name in FIELDS)
_REQUIRED: Final = ("credits", "price", "currency")


def put_offer(c: Connection, id: str, changes: Mapping[str, Any], now_ms: int) -> Offer:
    """Make an offer or change it, and return it as it now is.

    Fields that `changes` lacks stay as they are, None sets one to its default. Raises `Refusal`
    (422): a field that is missing or wrong, a price below the minimum, a second active rate of a
    currency.
    """
    # One at a time, so that two of them do not both find that there is no rate yet.
    c.execute(text("LOCK TABLE offers IN SHARE ROW EXCLUSIVE MODE"))
    before = get_offer(c, id)
    offer = _changed(before, id, changes, now_ms)
    _check(offer)
    _check_rate(c, offer)
    values = dataclasses.asdict(offer)
    kept = insert(offers).values(values)
    c.execute(kept.on_conflict_do_update(index_elements=["id"], set_=values))
    return offer


def get_offer(c: Connection, id: str) -> Offer | None:
    """Return an offer, or None when there is none."""
    return _first(c, select(*_COLUMNS).where(offers.c.id == id))


def list_offers(c: Connection, limit: int, cursor: str | None = None) -> Page[dict[str, Any]]:
    """Return a page of the offers, newest first. Raises `Refusal` (422) for a bad cursor."""
    query = select(offers.c.no, *_COLUMNS).order_by(offers.c.no.desc()).limit(limit + 1)
    if cursor is not None:
        (before,) = decode_cursor(cursor, 1)
        query = query.where(offers.c.no < before)
    rows = [dict(row) for row in c.execute(query).mappings()]
    return page_of(rows, limit, lambda row: (row["no"],))


def rate_for(c: Connection, currency: str | None = None) -> Offer | None:
    """Return the active rate of a currency, or None; of no currency: the oldest active rate."""
    query = select(*_COLUMNS).where(offers.c.is_rate, offers.c.is_active)
    if currency is not None:
        query = query.where(offers.c.currency == currency)
    return _first(c, query.order_by(offers.c.no).limit(1))


def rate_currencies(c: Connection) -> list[str]:
    """Return the currencies for which any number of credits is sold."""
    query = select(offers.c.currency).where(offers.c.is_rate, offers.c.is_active)
    return list(c.scalars(query.order_by(offers.c.currency)))


def _first(c: Connection, query: Any) -> Offer | None:
    row = c.execute(query).mappings().one_or_none()
    return None if row is None else Offer(**row)


def _changed(before: Offer | None, id: str, changes: Mapping[str, Any], now_ms: int) -> Offer:
    cleared = {name for name, value in changes.items() if value is None}
    given = {name: value for name, value in changes.items() if value is not None}
    known = {} if before is None else dataclasses.asdict(before)
    if given.get("currency", known.get("currency")) != known.get("currency"):
        cleared.add("minimum_price")  # it was one of other money
    values = {name: value for name, value in known.items() if name not in cleared} | given
    for name in _REQUIRED:
        if name not in values:
            raise refused(f"An offer needs {name}.", name)
    defaults = {
        "is_rate": False,
        "minimum_price": currencies.default_minimum(values["currency"]),
        "is_active": True,
        "created_ms": now_ms,
    }
    return Offer(**defaults | values | {"id": id, "updated_ms": now_ms})


def _check(offer: Offer) -> None:
    if offer.is_rate:
        return
    multiple = currencies.step(offer.currency)
    if offer.price % multiple:
        name = offer.currency.upper()
        raise refused(f"A price in {name} must be a multiple of {multiple}.", "price")
    require_minimum(offer, offer.price, "price")


def require_minimum(offer: Offer, price: int, param: str) -> None:
    """Refuse (422) a price of which Stripe keeps more than the offer's minimum allows for."""
    if price >= offer.minimum_price:
        return
    currency = offer.currency
    share = currencies.usual_share(price, currency)
    least = currencies.shown(offer.minimum_price, currency)
    raise refused(
        f"Of {currencies.shown(price, currency)} Stripe would keep about {share} %:"
        f" the least is {least}, the minimum_price of offer {offer.id}.",
        param,
    )


def _check_rate(c: Connection, offer: Offer) -> None:
    if not (offer.is_rate and offer.is_active):
        return
    other = rate_for(c, offer.currency)
    if other is not None and other.id != offer.id:
        raise refused(
            f"Offer {other.id} is the active rate in {offer.currency.upper()} already:"
            " set its is_active to false first.",
            "is_rate",
        )


def refused(message: str, param: str) -> Refusal:
    """Return the refusal (422) of a field of an offer or an order."""
    return Refusal(ErrorCode.INVALID_REQUEST, message, param=param)
