"""When an account is called low or exhausted, and when again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest

from sidecar.billing.watch_rules import Watched, look, pause_ms, time_to_zero_seconds

BEFORE = Watched(
    "acme",
    rung_ms=0,
    is_low_told=False,
    is_exhausted_told=False,
    exhausted_ms=0,
    low_threshold=100,
    top_up_threshold=0,
    mark=100,
)


def _told(one: Watched, balances: Iterable[int], step_ms: int = 1_000) -> list[str]:
    """Return what is told while an account has one balance after the other."""
    told, now_ms = [], 1_000_000
    for available in balances:
        now_ms += step_ms
        found = look(one, available, now_ms)
        told += ["low"] * found.tells_low + ["exhausted"] * found.tells_exhausted
        one = dataclasses.replace(
            one,
            is_low_told=found.is_low_told,
            is_exhausted_told=found.is_exhausted_told,
            exhausted_ms=now_ms if found.tells_exhausted else one.exhausted_ms,
        )
    return told


@pytest.mark.parametrize(
    ("balances", "told"),
    [
        ([100], []),
        ([99], ["low"]),
        ([99, 98, 1], ["low"]),
        ([99, 105, 99, 109, 99], ["low"]),
        ([99, 110, 99], ["low", "low"]),
        ([99, 1_000, 99], ["low", "low"]),
        ([0], ["low", "exhausted"]),
        ([50, 0, -5, 10, 0], ["low", "exhausted"]),
    ],
)
def test_low_is_told_again_only_after_a_tenth_above_the_threshold(
    balances: list[int], told: list[str]
) -> None:
    assert _told(BEFORE, balances) == told


@pytest.mark.parametrize(
    ("balances", "step_ms", "told"),
    [
        ([0, 11, 0], 59_999, 1),
        ([0, 11, 0], 60_000, 2),
        ([0, 10, 0], 60_000, 1),
        ([0, 10, 11, 0], 60_000, 2),
    ],
)
def test_exhausted_is_told_again_after_a_tenth_and_a_minute(
    balances: list[int], step_ms: int, told: int
) -> None:
    assert _told(BEFORE, balances, step_ms).count("exhausted") == told


def test_without_a_threshold_only_an_empty_account_is_told() -> None:
    one = dataclasses.replace(BEFORE, low_threshold=0)
    assert _told(one, [5, 0, -5, 1, 0], 60_000) == ["exhausted", "exhausted"]
    assert not look(one, -1, 1).is_low_told


def test_the_smallest_threshold_is_left_behind_by_one_microcredit_more() -> None:
    one = dataclasses.replace(BEFORE, low_threshold=1)
    assert _told(one, [0, 1, 0], 60_000) == ["low", "exhausted", "exhausted"]
    assert _told(one, [0, 2, 0], 60_000) == ["low", "exhausted"] * 2


@pytest.mark.parametrize(
    ("available", "is_to_top_up", "is_over"),
    [(199, True, False), (200, False, True), (109, True, False)],
)
def test_an_account_is_watched_until_it_is_above_everything(
    available: int, is_to_top_up: bool, is_over: bool
) -> None:
    one = dataclasses.replace(BEFORE, is_low_told=True, top_up_threshold=200)
    found = look(one, available, 0)
    assert (found.is_to_top_up, found.is_over) == (is_to_top_up, is_over)


def test_the_pauses_between_looks_grow_to_half_a_minute() -> None:
    pauses: list[int] = []
    now_ms = 0
    while sum(pauses) < 120_000:
        pauses.append(pause_ms(0, now_ms, is_waiting=False))
        now_ms += pauses[-1]
    assert pauses == [1_000, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
    assert pause_ms(5_000, 0, is_waiting=False) == 1_000
    assert pause_ms(0, 120_000, is_waiting=True) == 4_000


@pytest.mark.parametrize(
    ("low", "top_up", "mark", "available", "is_waiting", "is_over"),
    [
        # Below the mark no other hint comes: it is watched for what else it may fall below.
        (100, 1_000, 1_000, 500, True, False),
        (1_000, 100, 1_000, 500, True, False),
        (1_000, 100, 1_000, 99, False, False),
        (100, 1_000, 1_000, 99, False, False),
        # Its auto top-up is paused.
        (100, 0, 1_000, 500, True, False),
        (100, 0, 1_000, 1_000, True, True),
        (0, 0, 1_000, 500, False, False),
    ],
)
def test_between_its_thresholds_an_account_stays_watched(
    low: int, top_up: int, mark: int, available: int, is_waiting: bool, is_over: bool
) -> None:
    one = dataclasses.replace(BEFORE, low_threshold=low, top_up_threshold=top_up, mark=mark)
    found = look(one, available, 0)
    assert (found.is_waiting, found.is_over) == (is_waiting, is_over)


@pytest.mark.parametrize(
    ("available", "used", "seconds"),
    [(3_600, 3_600, 3_600), (100, 7_200, 50), (100, 0, None), (100, -5, None), (0, 10, 0)],
)
def test_time_to_zero_is_by_the_usage_of_the_last_hour(
    available: int, used: int, seconds: int | None
) -> None:
    assert time_to_zero_seconds(available, used) == seconds
