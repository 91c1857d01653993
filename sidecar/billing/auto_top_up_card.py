"""Which payment method of a customer an auto top-up charges."""

from __future__ import annotations

from typing import Any

from sidecar.billing.errors import StripeRefused
from sidecar.billing.fields import optional_id
from sidecar.billing.stripe_api import StripeApi


def find_card(stripe: StripeApi, customer: str) -> str | None:
    """Return a customer's default payment method, else the newest card; None: there is none.

    Raises `StripeAway` and `StripeRefused`.
    """
    try:
        found = stripe.get(f"/v1/customers/{customer}")
    except StripeRefused as error:
        if error.is_missing:
            return None
        raise
    if found.get("deleted"):
        return None
    settings: Any = found.get("invoice_settings")
    default = settings.get("default_payment_method") if isinstance(settings, dict) else None
    if default is not None:
        return optional_id(default)
    # Newest first.
    cards: Any = stripe.get("/v1/payment_methods", customer=customer, type="card", limit=1)
    return optional_id(cards["data"][0]) if cards["data"] else None
