"""Credits and counts as people write and read them. No float and no Decimal: digits to digits."""

from __future__ import annotations

import re
from typing import Final

from sidecar.domain import MAX_AMOUNT, Microcredits

MICROCREDITS_A_CREDIT: Final = 1_000_000

_CREDITS: Final = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,6}))?")


def parse_credits(text: str) -> Microcredits:
    """Return the amount of credits like `25` or `0.5`: at most six decimals.

    Raises `ValueError` for another form and beyond 2^53-1 microcredits.
    """
    found = _CREDITS.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a number of credits: use digits, e.g. 25 or 0.5")
    amount = int(found[1]) * MICROCREDITS_A_CREDIT + int((found[2] or "").ljust(6, "0"))
    if amount > MAX_AMOUNT:
        raise ValueError(f"{text} credits are more than an account can have")
    return Microcredits(amount)


def format_credits(amount: int | None) -> str:
    """Return an amount in credits, e.g. `1,234.5`; what is not known is `?`."""
    if amount is None:
        return "?"
    whole, rest = divmod(abs(amount), MICROCREDITS_A_CREDIT)
    sign = "-" if amount < 0 else ""
    return f"{sign}{whole:,}" + (f".{rest:06d}".rstrip("0") if rest else "")


def counted(count: int, noun: str) -> str:
    """Return a number of things, e.g. `1 shard`, `2 shards`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
