"""How much an auto top-up buys: one charge that closes the gap, within the month's cap."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month in UTC: `name` is `2027-01`; from `start_ms` until before `end_ms`."""

    name: str
    start_ms: int
    end_ms: int


def month_of(now_ms: int) -> Month:
    """Return the month of an instant."""
    now = dt.datetime.fromtimestamp(now_ms // 1000, dt.UTC)
    start = now.replace(day=1, hour=0, minute=0, second=0)
    end = (start + dt.timedelta(days=32)).replace(day=1)
    return Month(f"{start:%Y-%m}", int(start.timestamp()) * 1000, int(end.timestamp()) * 1000)


def credits_to_buy(available: int, threshold: int, amount: int, left: int | None = None) -> int:
    """Return the smallest multiple of `amount` that lifts `available` to the threshold.

    At least one `amount`, and no more than what is `left` of the cap: 0 when that is less.
    """
    gap = threshold - available
    times = max(-(-gap // amount), 1)
    if left is not None:
        times = min(times, max(left, 0) // amount)
    return times * amount
