"""The calendar of billing: periods counted from an anchor, in UTC."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime
from typing import Final

from sidecar.dev.fake_stripe.clock import DAY
from sidecar.dev.fake_stripe.state import Object

_DAYS: Final = {"day": 1, "week": 7}
_MONTHS: Final = {"month": 1, "year": 12}


def period_end(anchor: int, recurring: Object, start: int) -> int:
    """Return the end of the period that begins at `start`: the next boundary after it.

    Boundaries are the anchor plus whole intervals. A month that lacks the anchor's day ends on
    its last day, and the months after it are not moved by that.
    """
    number = 1
    while (end := _boundary(anchor, recurring, number)) <= start:
        number += 1
    return end


def months_later(instant: int, months: int) -> int:
    """Return the same day of the month some months later, or that month's last day."""
    then = datetime.fromtimestamp(instant, UTC)
    year, month = divmod(then.year * 12 + then.month - 1 + months, 12)
    day = min(then.day, calendar.monthrange(year, month + 1)[1])
    return int(then.replace(year=year, month=month + 1, day=day).timestamp())


def _boundary(anchor: int, recurring: Object, number: int) -> int:
    interval, count = recurring["interval"], int(recurring["interval_count"]) * number
    if interval in _DAYS:
        return anchor + count * _DAYS[interval] * DAY
    return months_later(anchor, count * _MONTHS[interval])
