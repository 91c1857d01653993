"""One thing that was looked at, and what was made of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a check comes to."""

    OK = "ok"
    WARNING = "warning"
    """It works, and costs something that someone may not want to pay."""
    WRONG = "wrong"
    """It does not work, or not safely."""
    UNKNOWN = "unknown"
    """It cannot be seen from here; `fix` says where to look."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check of a `part` of the whole: what was found, what it would cost if wrong, what helps."""

    part: str
    name: str
    verdict: Verdict
    found: str
    cost: str
    fix: str


def worst(*verdicts: Verdict) -> Verdict:
    """Return the verdict that weighs most."""
    order = (Verdict.WRONG, Verdict.WARNING, Verdict.UNKNOWN, Verdict.OK)
    return min(verdicts, key=order.index)


def wrong_if(is_wrong: bool) -> Verdict:
    """Return wrong or ok."""
    return Verdict.WRONG if is_wrong else Verdict.OK


def warning_if(is_odd: bool) -> Verdict:
    """Return warning or ok."""
    return Verdict.WARNING if is_odd else Verdict.OK
