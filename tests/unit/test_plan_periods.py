"""What paid lines are worth: anniversaries, shares of periods, high-water marks."""

from __future__ import annotations

import calendar
import dataclasses
import random
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.billing.alerts import AlertKind
from sidecar.billing.periods import (
    DAY_MS,
    HOUR_MS,
    PaidLine,
    Period,
    add_months,
    months_of,
    periods_of,
    worth,
)
from sidecar.billing.plan_states import STATUSES, kinds_of_change, state_of

START = 1_700_000_000_000
MONTH = 30 * DAY_MS

marks = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 1_000)), max_size=8)
instants = st.integers(0, 4_000_000_000).map(lambda seconds: seconds * 1000)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def line(**changes: Any) -> PaidLine:
    values: dict[str, Any] = {
        "item": "si_1",
        "price": "price_1",
        "quantity": 1,
        "starts_ms": START,
        "ends_ms": START + MONTH,
        "at_ms": changes.get("starts_ms", START),
        "paid_ms": START,
        "full": 100,
        "is_prorated": True,
        "is_monthly": False,
        "is_trial": False,
        "grace_ms": 3 * DAY_MS,
        "rollover_cap": 0,
        "account": "acme",
        "invoice": "in_1",
    }
    return PaidLine(**values | changes)


def targets(*lines: PaidLine, ceiling: int = 2**53) -> list[int]:
    return [one.target for one in periods_of(lines, {"si_1": ceiling})]


# Anniversaries ------------------------------------------------------------------------------


def test_the_31st_has_its_anniversary_on_the_last_day_of_shorter_months() -> None:
    start = ms("2027-01-31T12:30:00")
    later = [add_months(start, number) for number in range(1, 6)]
    assert later == [
        ms("2027-02-28T12:30:00"),
        ms("2027-03-31T12:30:00"),
        ms("2027-04-30T12:30:00"),
        ms("2027-05-31T12:30:00"),
        ms("2027-06-30T12:30:00"),
    ]
    assert add_months(ms("2027-10-31T00:00:00"), 4) == ms("2028-02-29T00:00:00")


@given(instants, st.integers(1, 60))
def test_an_anniversary_is_on_the_same_day_or_the_last_of_the_month(at: int, months: int) -> None:
    before = datetime.fromtimestamp(at / 1000, UTC)
    after = datetime.fromtimestamp(add_months(at, months) / 1000, UTC)
    assert (after.year - before.year) * 12 + after.month - before.month == months
    last = calendar.monthrange(after.year, after.month)[1]
    assert after.day == min(before.day, last)
    assert after.timetz() == before.timetz()


@given(instants, st.integers(1, 1_200 * DAY_MS))
def test_the_months_of_a_period_fill_it_without_a_gap(start: int, length: int) -> None:
    parts = list(months_of(start, start + length))
    assert (parts[0][0], parts[-1][1]) == (start, start + length)
    assert all(one[1] == after[0] for one, after in pairwise(parts))
    assert all(0 < end - begin <= 31 * DAY_MS for begin, end in parts)


# High-water marks ---------------------------------------------------------------------------


@given(marks)
def test_marks_are_worth_the_same_in_any_order_and_twice_is_once(some: list[Any]) -> None:
    shuffled = some * 2
    random.Random(len(some)).shuffle(shuffled)
    assert worth(shuffled, 1_000) == worth(some, 1_000)


@given(marks, st.tuples(st.integers(0, 10**9), st.integers(0, 1_000)))
def test_one_mark_more_never_takes_anything_back(some: list[Any], more: Any) -> None:
    assert worth(some, 1_000) <= worth([*some, more], 1_000)


@given(st.lists(st.integers(0, 10**9), max_size=8))
def test_one_after_the_other_each_new_highest_adds_its_share(fulls: list[int]) -> None:
    """The same as the rule in words, computed in the order of time and rounded down once."""
    lefts = [1_000 - 100 * number for number in range(len(fulls))]
    expected, highest = Fraction(), 0
    for full, left in zip(fulls, lefts, strict=True):
        expected += Fraction(max(full - highest, 0) * left, 1_000)
        highest = max(highest, full)
    assert worth(zip(fulls, lefts, strict=True), 1_000) == int(expected)


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 10**10), st.data())
def test_a_share_is_exact_and_rounded_down(
    base: int, more: int, length: int, data: st.DataObject
) -> None:
    left = data.draw(st.integers(0, length))
    assert worth([(base, length), (base + more, left)], length) == base + more * left // length


# Periods ------------------------------------------------------------------------------------


def test_a_period_expires_after_its_grace_and_at_least_two_hours_after_its_end() -> None:
    (three_days,) = periods_of([line()], {})
    assert three_days.expires_ms == START + MONTH + 3 * DAY_MS
    (none,) = periods_of([line(grace_ms=0)], {})
    assert none.expires_ms == START + MONTH + 2 * HOUR_MS


def test_a_prorated_upgrade_adds_its_share_and_a_full_one_all() -> None:
    half = START + MONTH // 2
    assert targets(line(), line(at_ms=half, full=201)) == [100 + 50]
    assert targets(line(), line(at_ms=half, full=201, is_prorated=False)) == [201]
    assert targets(line(), line(at_ms=half, full=40)) == [100]


def test_up_down_up_gives_nothing_twice() -> None:
    changes = [(1, 300), (2, 100), (3, 300), (4, 200), (5, 300)]
    lines = [line(at_ms=START + second * 1000, full=full) for second, full in changes]
    once = targets(line(), lines[0])
    assert targets(line(), *lines) == once
    assert once == [100 + 200 * (MONTH - 1000) // MONTH]


def test_an_upgrade_without_its_renewal_waits_for_the_rest() -> None:
    up = line(at_ms=START + MONTH // 2, full=300)
    assert targets(up) == [150]
    assert targets(up, line()) == [200]


def year(**changes: Any) -> PaidLine:
    starts = ms("2027-01-31T00:00:00")
    values = {"starts_ms": starts, "ends_ms": add_months(starts, 12), "is_monthly": True}
    return line(**values | changes)


def test_a_paid_year_has_one_part_for_each_month_the_first_due_when_it_is_paid() -> None:
    paid = ms("2027-01-31T05:00:00")
    parts = periods_of([year(paid_ms=paid)], {"si_1": 100})
    assert [one.target for one in parts] == [100] * 12
    assert parts[1].starts_ms == ms("2027-02-28T00:00:00")
    assert [one.due_ms for one in parts] == [paid, *(one.starts_ms for one in parts[1:])]
    assert all(one.expires_ms == one.ends_ms + 3 * DAY_MS for one in parts)
    assert [one.ends_ms for one in parts[:-1]] == [one.starts_ms for one in parts[1:]]


def test_a_change_within_a_year_counts_for_the_month_in_part_and_for_later_ones_in_full() -> None:
    at = ms("2027-03-15T12:00:00")
    up = dataclasses.replace(year(), at_ms=at, full=300)
    found = targets(year(), up)
    share = (ms("2027-03-31T00:00:00") - at) / (31 * DAY_MS)
    assert found[:2] == [100, 100 + int(200 * share)]
    assert found[2:] == [300] * 10
    down = dataclasses.replace(year(), at_ms=ms("2027-05-10T00:00:00"), full=50)
    assert targets(year(), up, down) == found[:4] + [50] * 8


def test_later_months_are_never_worth_more_than_what_the_item_has_now() -> None:
    assert targets(year(), ceiling=70) == [100] + [70] * 11
    assert [one.target for one in periods_of([year()], {})] == [100] + [0] * 11


def test_the_months_of_a_year_end_where_the_next_paid_period_begins() -> None:
    at = ms("2027-04-10T00:00:00")
    new = line(starts_ms=at, ends_ms=add_months(at, 1), full=30)
    starts = [one.starts_ms for one in periods_of([year(), new], {"si_1": 100})]
    assert starts == [
        ms("2027-01-31T00:00:00"),
        ms("2027-02-28T00:00:00"),
        ms("2027-03-31T00:00:00"),
        at,
    ]


def test_a_trial_of_a_monthly_plan_is_one_part() -> None:
    (trial,) = periods_of([year(is_trial=True, full=7)], {"si_1": 100})
    assert (trial.target, trial.is_trial) == (7, True)


@st.composite
def histories(draw: st.DrawFn) -> list[PaidLine]:
    """Draw the paid lines of one item over some periods, in the order of time."""
    lines: list[PaidLine] = []
    for number in range(draw(st.integers(1, 3))):
        starts = START + number * MONTH
        for offset in [0, *draw(st.lists(st.integers(0, 29), max_size=4))]:
            lines.append(
                line(
                    starts_ms=starts,
                    ends_ms=starts + MONTH,
                    at_ms=starts + offset * DAY_MS,
                    full=draw(st.integers(0, 1_000)),
                    is_prorated=draw(st.booleans()),
                    invoice=f"in_{len(lines)}",
                )
            )
    return lines


@given(histories(), st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_matter(lines: list[PaidLine], dice: random.Random) -> None:
    shuffled = lines * 2
    dice.shuffle(shuffled)
    assert periods_of(shuffled, {}) == periods_of(lines, {})


@given(histories(), st.randoms(use_true_random=False))
def test_a_period_is_never_worth_less_when_more_is_known(
    lines: list[PaidLine], dice: random.Random
) -> None:
    known = dice.sample(lines, dice.randint(0, len(lines)))
    by_start = {one.starts_ms: one for one in periods_of(lines, {})}
    before: list[Period] = periods_of(known, {})
    assert all(one.target <= by_start[one.starts_ms].target for one in before)


# States -------------------------------------------------------------------------------------


def test_every_status_has_a_state() -> None:
    now = START
    assert {status: state_of(status, now + 1, now) for status in STATUSES} == {
        "active": "active",
        "trialing": "active",
        "past_due": "grace",
        "unpaid": "suspended",
        "paused": "suspended",
        "incomplete": "suspended",
        "canceled": "ended",
        "incomplete_expired": "ended",
    }
    assert state_of("past_due", now, now) == "suspended"
    assert state_of("past_due", None, now) == "suspended"


def test_each_change_of_state_is_told_by_its_kinds() -> None:
    assert kinds_of_change("suspended", "active", has_run=False) == []
    assert kinds_of_change("active", "active", has_run=True) == []
    assert kinds_of_change("active", "grace", has_run=True) == [AlertKind.GRACE_STARTED]
    assert kinds_of_change("grace", "active", has_run=True) == [AlertKind.GRACE_ENDED]
    assert kinds_of_change("grace", "suspended", has_run=True) == [
        AlertKind.GRACE_ENDED,
        AlertKind.PLAN_SUSPENDED,
    ]
    assert kinds_of_change("active", "ended", has_run=True) == [AlertKind.PLAN_SUSPENDED]
    assert kinds_of_change("suspended", "ended", has_run=True) == []
    assert kinds_of_change("suspended", "active", has_run=True) == [AlertKind.PLAN_RESUMED]
