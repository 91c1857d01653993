"""What the control listener accepts in bodies about money."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from sidecar.billing.currencies import CURRENCY_PATTERN, MOST
from sidecar.control.requests import Amount, AmountOrZero, Id

# Stripe takes 5,000 characters. Its `{CHECKOUT_SESSION_ID}` may be in them.
_HTTP_URL = r"^https?://[\x21-\x7e]+\Z"

HttpUrl = Annotated[str, Meta(pattern=_HTTP_URL, max_length=5_000)]
Currency = Annotated[str, Meta(pattern=CURRENCY_PATTERN)]
Price = Annotated[int, Meta(ge=1, le=MOST)]
GraceDays = Annotated[int, Meta(ge=0, le=365)]


class OfferBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Make or change what is sold: absent fields keep their value, null ones get the default."""

    null_clears: ClassVar[bool] = True

    credits: Amount | UnsetType | None = UNSET
    price: Price | UnsetType | None = UNSET
    currency: Currency | UnsetType | None = UNSET
    is_rate: bool | UnsetType | None = UNSET
    minimum_price: Price | UnsetType | None = UNSET
    is_active: bool | UnsetType | None = UNSET


class CheckoutBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Sell a pack (`offer`), or any number of microcredits (`credits`) at the rate."""

    credits: Amount | None = None
    offer: Id | None = None
    currency: Currency | None = None
    success_url: HttpUrl
    cancel_url: HttpUrl | None = None
    save_card: bool = False


class PortalBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Let a customer see to their cards and subscriptions."""

    return_url: HttpUrl


class AutoTopUpBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """When to buy by itself, and how much: absent fields keep their value."""

    null_clears: ClassVar[bool] = True

    enabled: bool | UnsetType | None = UNSET
    threshold: Amount | UnsetType | None = UNSET
    amount: Amount | UnsetType | None = UNSET
    monthly_cap: Amount | UnsetType | None = UNSET


class PlanBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a recurring price gives: absent fields keep their value, null ones get the default."""

    null_clears: ClassVar[bool] = True

    allowance: Amount | UnsetType | None = UNSET
    grace_days: GraceDays | UnsetType | None = UNSET
    rollover_cap: AmountOrZero | UnsetType | None = UNSET
    upgrade_allowance: Literal["prorated", "full"] | UnsetType | None = UNSET
    allowance_interval: Literal["period", "month"] | UnsetType | None = UNSET
    trial_allowance: AmountOrZero | UnsetType | None = UNSET
