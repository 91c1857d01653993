"""Periods: what the paid lines of invoices make a subscription item worth, and when.

Nothing here reads a clock or a table. The same lines in any order give the same periods, and one
more line never makes a period worth less, save that a downgrade counts for later months.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import Final

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
LEAST_GRACE_MS: Final = 2 * HOUR_MS
"""Stripe finalises a renewal about an hour after the period began."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class PaidLine:
    """A paid line of an invoice, with what its plan said when it was paid.

    It is of the period from `starts_ms` to `ends_ms` and counts from `at_ms` on: that is the start
    for a renewal, and the moment of the change for an upgrade. `full` is the plan's allowance times
    the quantity, for a whole period. `is_prorated`: it is worth the share of the period that was
    left then. `paid_ms` is when its invoice was paid.
    """

    item: str
    price: str
    quantity: int
    starts_ms: int
    ends_ms: int
    at_ms: int
    paid_ms: int
    full: int
    is_prorated: bool
    is_monthly: bool
    is_trial: bool
    grace_ms: int
    rollover_cap: int
    account: str
    invoice: str


@dataclass(frozen=True, slots=True)
class Period:
    """What an item is worth from `starts_ms` to `ends_ms`: `target` microcredits.

    `due_ms` is when it may be granted: when it was paid, but a later month not before it begins.
    `expires_ms` is when it ends at the latest. Price, quantity and invoice are those of the highest
    allowance in it.
    """

    item: str
    starts_ms: int
    ends_ms: int
    due_ms: int
    expires_ms: int
    target: int
    rollover_cap: int
    price: str
    quantity: int
    is_trial: bool
    account: str
    invoice: str


def periods_of(lines: Iterable[PaidLine], ceilings: Mapping[str, int]) -> list[Period]:
    """Return the periods of all items, by item and start.

    A period that is paid for months in advance has one part for each month. `ceilings` is what
    each item has now, for a whole period: later months are never worth more, and nothing for an
    item that was removed. They end where the next paid period begins.
    """
    found: list[Period] = []
    ordered = sorted(lines, key=lambda line: (line.item, line.starts_ms))
    for item, of_item in groupby(ordered, key=lambda line: line.item):
        paid = [list(group) for _, group in groupby(of_item, key=lambda line: line.starts_ms)]
        nexts = [group[0].starts_ms for group in paid[1:]]
        for group, next_ms in zip(paid, [*nexts, None], strict=True):
            found += _parts(group, next_ms, ceilings.get(item, 0))
    return found


def worth(marks: Iterable[tuple[int, int]], length: int) -> int:
    """Return what high-water marks are worth: each is a full allowance and how much of `length`
    was left when it was reached.

    Each unit of allowance counts once, with the most that was left when it was reached, so up,
    down and up again gives nothing twice. Rounded down once.
    """
    total, best = 0, 0
    for (full, left), (lower, _) in pairwise([*sorted(marks, reverse=True), (0, 0)]):
        best = max(best, left)
        total += (full - lower) * best
    return total // length


def months_of(starts_ms: int, ends_ms: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a period between its monthly anniversaries; the last may be shorter."""
    number, start = 1, starts_ms
    while start < ends_ms:
        anniversary = add_months(starts_ms, number)
        yield start, min(anniversary, ends_ms)
        number, start = number + 1, anniversary


def add_months(at_ms: int, months: int) -> int:
    """Return the same day and time of a later month, UTC, or that month's last day."""
    at = _EPOCH + at_ms * _MS
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    last_day = calendar.monthrange(year, month + 1)[1]
    later = at.replace(year=year, month=month + 1, day=min(at.day, last_day))
    return (later - _EPOCH) // _MS


def _parts(lines: Sequence[PaidLine], next_ms: int | None, ceiling: int) -> Iterator[Period]:
    starts_ms, ends_ms = lines[0].starts_ms, max(line.ends_ms for line in lines)
    is_monthly = any(line.is_monthly and not line.is_trial for line in lines)
    parts = months_of(starts_ms, ends_ms) if is_monthly else iter([(starts_ms, ends_ms)])
    for start, end in parts:
        is_first = start == starts_ms
        if not is_first and next_ms is not None and start >= next_ms:
            return
        marks = _marks(lines, start, end) if is_first else _later_marks(lines, start, end)
        if marks:
            target = worth([(line.full, left) for line, left in marks], end - start)
            yield _period(marks, start, end, target if is_first else min(target, ceiling))


def _marks(lines: Sequence[PaidLine], start: int, end: int) -> list[tuple[PaidLine, int]]:
    """Return the lines that count before `end`, each with what was left of the part then."""
    return [(line, _left(line, start, end)) for line in lines if line.at_ms < end]


def _later_marks(lines: Sequence[PaidLine], start: int, end: int) -> list[tuple[PaidLine, int]]:
    """Return the marks of a later month: it begins with what is in force then."""
    before = [line for line in lines if line.at_ms <= start]
    within = [line for line in lines if line.at_ms > start]
    in_force = [max(before, key=lambda line: (line.at_ms, line.full))] if before else []
    return [(line, end - start) for line in in_force] + _marks(within, start, end)


def _left(line: PaidLine, start: int, end: int) -> int:
    return end - max(start, line.at_ms) if line.is_prorated else end - start


def _period(marks: Sequence[tuple[PaidLine, int]], start: int, end: int, target: int) -> Period:
    lines = [line for line, _ in marks]
    highest = max(lines, key=lambda line: (line.full, -line.at_ms, line.invoice))
    newest = max(lines, key=lambda line: (line.at_ms, line.full))
    is_first = start == highest.starts_ms
    paid_ms = min(line.paid_ms for line in lines)
    return Period(
        item=highest.item,
        starts_ms=start,
        ends_ms=end,
        due_ms=paid_ms if is_first else max(start, paid_ms),
        expires_ms=end + max(LEAST_GRACE_MS, *(line.grace_ms for line in lines)),
        target=target,
        rollover_cap=newest.rollover_cap,
        price=highest.price,
        quantity=highest.quantity,
        is_trial=all(line.is_trial for line in lines),
        account=highest.account,
        invoice=highest.invoice,
    )
