"""The words of the domain as types, with their bounds. Standard library only."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NewType

Microcredits = NewType("Microcredits", int)
"""An amount of credits: an integer, 1 credit = 1,000,000 microcredits."""

MAX_AMOUNT: Final = 2**53 - 1
"""The largest amount: Redis Lua numbers are doubles, exact up to here."""

ACCOUNT_PATTERN: Final = r"^[A-Za-z0-9._:@\-]{1,128}\Z"
"""An account name: 1 to 128 characters."""

ID_PATTERN: Final = r"^[\x21-\x7e]{1,128}\Z"
"""A caller's id: 1 to 128 printable ASCII characters without space."""

_ACCOUNT: Final = re.compile(ACCOUNT_PATTERN)
_ID: Final = re.compile(ID_PATTERN)


class AccountStatus(StrEnum):
    """Whether an account may spend."""

    ACTIVE = "active"
    GRACE = "grace"
    SUSPENDED = "suspended"
    CLOSED = "closed"


class Category(StrEnum):
    """What a grant is."""

    PROMO = "promo"
    ALLOWANCE = "allowance"
    ADJUSTMENT = "adjustment"
    PAID = "paid"


BURN_RANK: Final = {
    Category.PROMO: 0,
    Category.ALLOWANCE: 1,
    Category.ADJUSTMENT: 2,
    Category.PAID: 3,
}
"""The third key of the burn order, after priority and expiry."""

NEVER_EXPIRES: Final = 999_999_999_999_999
"""The expiry in milliseconds that stands for "never" in a grant's order key."""


class Operation(StrEnum):
    """What an event in the usage stream records.

    `settle`, `debit` and `refund` are usage events. The others move credits without usage:
    `expire` ends what is left of a grant, or what of it is not carried over, `cover` pays an
    earlier overdraft from a grant, `take` is a negative adjustment or a claw-back carried out.
    """

    SETTLE = "settle"
    DEBIT = "debit"
    REFUND = "refund"
    EXPIRE = "expire"
    COVER = "cover"
    TAKE = "take"


USAGE_OPERATIONS: Final = (Operation.SETTLE, Operation.DEBIT, Operation.REFUND)


def is_account(value: str) -> bool:
    """Tell whether `value` has the form of an account name."""
    return _ACCOUNT.match(value) is not None


def is_id(value: str) -> bool:
    """Tell whether `value` has the form of a caller's id."""
    return _ID.match(value) is not None


def burn_order(priority: int, expires_at_ms: int | None, category: str, grant_no: int) -> str:
    """Return the sort key of a grant: lexicographic order is the burn order.

    Priority (3 digits), expiry in ms (15, never last), category rank (1), grant number (15).
    """
    expiry = NEVER_EXPIRES if expires_at_ms is None else expires_at_ms
    return f"{priority:03d}{expiry:015d}{BURN_RANK[Category(category)]}{grant_no:015d}"
