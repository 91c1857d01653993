"""One cycle: load, a fault in the middle of it, recovery, quiet, and every check."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from loadtests.stack import Say
from tests.faults.flows import Account
from tests.faults.history import Attempt, Call, History
from tests.faults.load import Load
from tests.faults.measure import answers, is_decided, recoveries
from tests.faults.quiet import NotQuiet, wait_quiet
from tests.faults.stack import Stack

_WARM_SECONDS: Final = (0.4, 1.0)
_SERVED_SECONDS: Final = 45.0
_QUIET_SECONDS: Final = 60.0
_CALM_SECONDS: Final = 0.3
_POLL_SECONDS: Final = 0.05


@dataclass
class Cycle:
    """What a row's fault has to work with.

    `mark` says from when the recovery counts; if nobody calls it, that is when the fault is over.
    `dead`: the sidecar whose disk was destroyed, and when. `notes`: what the fault measured.
    `more_accounts`: what it made itself, to be checked too.
    """

    stack: Stack
    chance: random.Random
    history: History
    accounts: Sequence[Account]
    workspace: Path
    say: Say
    marked: float | None = None
    dead: tuple[int, float] | None = None
    notes: dict[str, float] = field(default_factory=dict)
    more_accounts: list[Account] = field(default_factory=list)

    def mark(self) -> None:
        """Let the recovery count from now."""
        self.marked = monotonic()

    def go_on(self, least_seconds: float, most_seconds: float | None = None) -> None:
        """Let everything go on as it is for some time."""
        most = least_seconds if most_seconds is None else most_seconds
        threading.Event().wait(self.chance.uniform(least_seconds, most))

    def wait_until(self, claim: Callable[[], object], what: str, seconds: float = 30.0) -> None:
        """Wait until something holds. Raises `NotQuiet`."""
        deadline = monotonic() + seconds
        while not claim():
            if monotonic() > deadline:
                raise NotQuiet(f"{what} did not come true within {seconds:.0f} s")
            sleep(_POLL_SECONDS)


@dataclass
class Passed:
    """What was measured in one cycle. `recoveries`: seconds, of the accounts that were affected."""

    recoveries: list[float] = field(default_factory=list)
    meanwhile: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    attempts: int = 0
    quiet_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def run_cycle(cycle: Cycle, fault: Callable[[Cycle], None], load: Load) -> Passed:
    """Break something under load, and wait until all is well again; check nothing yet."""
    passed, began = Passed(), monotonic()
    load.start()
    try:
        _wait_served(cycle, began)
        cycle.go_on(*_WARM_SECONDS)
        fault(cycle)
        cycle.stack.heal()
        healed = monotonic()
        mark = cycle.marked or healed
        _wait_served(cycle, max(healed, mark))
        served = monotonic()
    except NotQuiet as error:
        passed.problems.append(str(error))
        cycle.stack.heal()
        served = monotonic()
        mark = cycle.marked or served
    finally:
        load.stop()
    _measure(cycle, passed, began, mark, served)
    try:
        passed.quiet_seconds = wait_quiet(cycle.stack, seconds=_QUIET_SECONDS)
    except NotQuiet as error:
        passed.problems.append(str(error))
    return passed


def _wait_served(cycle: Cycle, since: float) -> None:
    """Wait until every account has been served, and nothing failed for a moment."""
    names = {account.name for account in cycle.accounts}

    def is_served() -> bool:
        ended = [(c, a) for c, a in cycle.history.attempts(since) if c.operation in _GRANTING]
        served = {call.account for call, attempt in ended if is_decided(attempt)}
        recent = monotonic() - _CALM_SECONDS
        is_calm = not any(a.is_bad or a.is_degraded for _, a in ended if a.answered > recent)
        return names <= served and is_calm

    cycle.wait_until(is_served, "service for every account", _SERVED_SECONDS)


def _measure(cycle: Cycle, passed: Passed, began: float, mark: float, served: float) -> None:
    attempts: list[tuple[Call, Attempt]] = list(cycle.history.attempts(began))
    names = [account.name for account in cycle.accounts]
    by_account = recoveries([(c, a) for c, a in attempts if a.answered <= served], mark, names)
    passed.recoveries = [seconds for seconds in by_account.values() if seconds > 0]
    end = min(served, mark + max(passed.recoveries, default=0.0))
    passed.meanwhile = answers((c, a) for c, a in attempts if mark <= a.answered <= end)
    passed.attempts = len(attempts)
    calls = {id(call): call for call, _ in attempts}
    passed.acknowledged = sum(call.done is not None for call in calls.values())


_GRANTING: Final = ("hold", "debit")
