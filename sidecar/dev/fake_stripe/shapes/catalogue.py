"""What is sold: products, prices, coupons."""

from __future__ import annotations

from typing import Any, Final

from sidecar.dev.fake_stripe.shapes import new
from sidecar.dev.fake_stripe.state import Cause, Object, State

_PRODUCT: Final[Object] = {
    "object": "product",
    "active": True,
    "default_price": None,
    "description": None,
    "images": [],
    "marketing_features": [],
    "metadata": {},
    "package_dimensions": None,
    "shippable": None,
    "statement_descriptor": None,
    "tax_code": None,
    "type": "service",
    "unit_label": None,
    "url": None,
}

_PRICE: Final[Object] = {
    "object": "price",
    "active": True,
    "billing_scheme": "per_unit",
    "custom_unit_amount": None,
    "lookup_key": None,
    "metadata": {},
    "nickname": None,
    "recurring": None,
    "tax_behavior": "unspecified",
    "tiers_mode": None,
    "transform_quantity": None,
    "type": "one_time",
}

_COUPON: Final[Object] = {
    "object": "coupon",
    "amount_off": None,
    "currency": None,
    "duration": "once",
    "duration_in_months": None,
    "max_redemptions": None,
    "metadata": {},
    "name": None,
    "percent_off": None,
    "redeem_by": None,
    "times_redeemed": 0,
    "valid": True,
}


def product(state: State, cause: Cause, **fields: Any) -> Object:
    """Return a product without a price."""
    return new(state, "prod", _PRODUCT, cause, updated=state.now(), **fields)


def price(state: State, unit_amount: int, currency: str, cause: Cause, **fields: Any) -> Object:
    """Return a price; `unit_amount` in minor units."""
    amounts = {"unit_amount": unit_amount, "unit_amount_decimal": str(unit_amount)}
    return new(state, "price", _PRICE, cause, currency=currency, **amounts, **fields)


def recurring(interval: str, interval_count: int) -> Object:
    """Return the part of a price that says how often it is due."""
    return {
        "interval": interval,
        "interval_count": interval_count,
        "meter": None,
        "trial_period_days": None,
        "usage_type": "licensed",
    }


def coupon(state: State, cause: Cause, **fields: Any) -> Object:
    """Return a coupon."""
    return new(state, "coupon", _COUPON, cause, **fields)
