"""What the control listener accepts in bodies."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, Struct, UnsetType

from sidecar.domain import ID_PATTERN, MAX_AMOUNT, NEVER_EXPIRES, Category

_TEXT = r"^[^\x00-\x1f\x7f]+\Z"

Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Text = Annotated[str, Meta(pattern=_TEXT, min_length=1, max_length=500)]
Name = Annotated[str, Meta(pattern=_TEXT, min_length=1, max_length=200)]
StripeId = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,255}\Z")]
Amount = Annotated[int, Meta(ge=1, le=MAX_AMOUNT)]
SignedAmount = Annotated[int, Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]
AmountOrZero = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
Priority = Annotated[int, Meta(ge=0, le=100)]
Instant = Annotated[int, Meta(ge=1, lt=NEVER_EXPIRES)]


class AccountBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Create or change an account: absent fields keep their value, null ones are cleared."""

    null_clears: ClassVar[bool] = True

    name: Name | UnsetType | None = UNSET
    overdraft_limit: AmountOrZero | UnsetType | None = UNSET
    low_balance_threshold: AmountOrZero | UnsetType | None = UNSET
    stripe_customer: StripeId | UnsetType | None = UNSET
    outage_allowance: AmountOrZero | UnsetType | None = UNSET


class GrantBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Add credits. The same id with the same contents is harmless."""

    id: Id
    amount: Amount
    category: Category
    priority: Priority = 50
    expires_at_ms: Instant | None = None
    reference: Text | None = None


class AdjustmentBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Add or take credits, with the reason why."""

    id: Id
    amount: SignedAmount
    reason: Text


class ReasonBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Why an account is suspended, resumed or closed."""

    reason: Text
