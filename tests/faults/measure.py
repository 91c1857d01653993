"""What a fault cost the clients: how long, and what they were told meanwhile."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from tests.faults.history import NO_ANSWER, Attempt, Call

_GRANTING = ("hold", "debit")


def recoveries(
    attempts: Iterable[tuple[Call, Attempt]], mark: float, accounts: Sequence[str]
) -> dict[str, float]:
    """Return for each account how long after `mark` it was served again, in seconds.

    Served again is the first new hold or debit that is decided by Redis, granted or not, after the
    last attempt that was not. Accounts that were served all the time have 0.
    """
    by_account: dict[str, list[Attempt]] = defaultdict(list)
    for call, attempt in attempts:
        if call.operation in _GRANTING and attempt.answered >= mark:
            by_account[call.account].append(attempt)
    return {account: _recovery(by_account[account], mark) for account in accounts}


def answers(attempts: Iterable[tuple[Call, Attempt]]) -> Counter[str]:
    """Count attempts by what was answered: an HTTP status, `degraded`, or `none`."""
    counts: Counter[str] = Counter()
    for _, attempt in attempts:
        if attempt.is_noise:
            continue
        if attempt.http == NO_ANSWER:
            counts["none"] += 1
        elif attempt.is_degraded:
            counts["degraded"] += 1
        else:
            counts[str(attempt.http)] += 1
    return counts


def is_decided(attempt: Attempt) -> bool:
    """Tell whether Redis decided it."""
    return not (attempt.is_bad or attempt.is_noise or attempt.is_degraded)


def _recovery(attempts: Sequence[Attempt], mark: float) -> float:
    missed = [_told_at(a) for a in attempts if a.is_bad or a.is_degraded]
    if not missed:
        return 0.0
    decided = [a.answered for a in attempts if is_decided(a) and a.answered > max(missed)]
    return min(decided) - mark if decided else float("inf")


def _told_at(attempt: Attempt) -> float:
    """Return when an attempt failed; one without an answer did when it was sent."""
    return attempt.sent if attempt.http == NO_ANSWER else attempt.answered
