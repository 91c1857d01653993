"""Rules of the watch: when an account is called low or exhausted, and when again.

Once told, the same is told again only after the account had clearly more: a balance that swings
around a threshold is told once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EXHAUSTED_AGAIN_MS: Final = 60_000
"""The least time from an alert of an empty account to the next one."""

_SHORTEST_MS: Final = 1_000
_WAITING_MS: Final = 4_000
_LONGEST_MS: Final = 30_000
_HOUR_SECONDS: Final = 3_600


@dataclass(frozen=True, slots=True)
class Watched:
    """A watched account; thresholds in microcredits, 0: none. `rung_ms`: when it last fell.

    Only a fall below `mark`, and one to zero, is a hint. `exhausted_ms`: when it was last told that
    nothing is left.
    """

    account: str
    rung_ms: int
    is_low_told: bool
    is_exhausted_told: bool
    exhausted_ms: int
    low_threshold: int
    top_up_threshold: int
    mark: int


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be done about a watched account. `is_over`: it need not be watched any more.

    `is_waiting`: it may fall below another threshold, of which no hint will come.
    """

    tells_low: bool
    tells_exhausted: bool
    is_low_told: bool
    is_exhausted_told: bool
    is_to_top_up: bool
    is_waiting: bool
    is_over: bool


def look(one: Watched, available: int, now_ms: int) -> Look:
    """Return what is to be done about an account that has `available` microcredits."""
    low = one.low_threshold
    is_below = low > 0 and available < low
    is_still_near = low > 0 and available < low + max(low // 10, 1)
    is_low_told = is_below or (one.is_low_told and is_still_near)
    is_empty = available <= 0
    is_refilled = available > low // 10 and now_ms - one.exhausted_ms >= EXHAUSTED_AGAIN_MS
    is_exhausted_told = is_empty or (one.is_exhausted_told and not is_refilled)
    is_to_top_up = available < one.top_up_threshold
    return Look(
        tells_low=is_below and not one.is_low_told,
        tells_exhausted=is_empty and not one.is_exhausted_told,
        is_low_told=is_low_told,
        is_exhausted_told=is_exhausted_told,
        is_to_top_up=is_to_top_up,
        is_waiting=(low > 0 and not is_low_told) or (one.top_up_threshold > 0 and not is_to_top_up),
        is_over=available >= one.mark and not (is_low_told or is_exhausted_told or is_to_top_up),
    )


def pause_ms(rung_ms: int, now_ms: int, *, is_waiting: bool) -> int:
    """Return when to look again at an account that fell at `rung_ms`: each wait about doubles."""
    longest_ms = _WAITING_MS if is_waiting else _LONGEST_MS
    return min(max(now_ms - rung_ms, _SHORTEST_MS), longest_ms)


def time_to_zero_seconds(available: int, used_last_hour: int) -> int | None:
    """Return in how many seconds nothing is left, if usage goes on as in the last hour.

    None when nothing was used.
    """
    if available <= 0:
        return 0
    return available * _HOUR_SECONDS // used_last_hour if used_last_hour > 0 else None
