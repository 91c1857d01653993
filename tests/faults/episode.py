"""Some cycles of one row on the same accounts, each followed by all checks."""

from __future__ import annotations

import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

import httpx
import redis
from sqlalchemy.exc import DBAPIError

from loadtests.stack import Say
from sidecar.errors import CreditsError
from tests.faults.check_balances import check_audit, check_audit_command, check_balances
from tests.faults.check_order import check_order
from tests.faults.check_replay import check_replay
from tests.faults.check_usage import Verdict, check_answers, check_overspend, check_usage
from tests.faults.client import ORDINARY, Manners
from tests.faults.cycle import Cycle, Passed, run_cycle
from tests.faults.flows import Account
from tests.faults.history import History
from tests.faults.load import Load
from tests.faults.stack import Redis, Stack
from tests.faults.truth import make_accounts, read_truth, top_up

_RICH: Final = 10_000_000_000
_POOR: Final = 30_000
_ALLOWANCE: Final = 100_000
_CLIENTS: Final = 6


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the fault table. `lost` and `overspent` are what it promises, in words.

    `is_lossy`: a Redis is lost, so that ids may be forgotten that nobody acknowledged. `is_last`:
    what it breaks stays broken, so that the next row needs a stack of its own.
    `setting`: what the row needs of the stack beside what it has. `most_cycles`: it is long.
    `redis`: on how many servers.
    """

    name: str
    title: str
    fault: Callable[[Cycle], None]
    is_lossy: bool = False
    is_last: bool = False
    lost: str = "0"
    overspent: str = "0"
    setting: Callable[[Stack], AbstractContextManager[object]] = lambda _: nullcontext()
    manners: Manners = ORDINARY
    most_cycles: int | None = None
    redis: Redis = Redis.ONE
    why_not: Callable[[], str | None] = lambda: None


@dataclass
class Result:
    """What all cycles of a row came to."""

    row: Row
    cycles: int = 0
    acknowledged: int = 0
    lost: int = 0
    lost_amount: int = 0
    overspent: int = 0
    doubtful: int = 0
    compared: int = 0
    undecided: int = 0
    seconds: float = 0.0
    recoveries: list[float] = field(default_factory=list)
    meanwhile: Counter[str] = field(default_factory=Counter)
    notes: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    skipped: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the row need not be run again."""
        return self.skipped is not None or self.cycles >= (self.row.most_cycles or self.cycles + 1)


class Episode:
    """A row on accounts of its own."""

    def __init__(self, stack: Stack, row: Row, seed: int, directory: Path, say: Say) -> None:
        self._stack = stack
        self._row = row
        self._seed = seed
        self._say = say
        self._directory = directory
        directory.mkdir(parents=True)
        self._history = History(directory / "history.jsonl")
        self._accounts = _accounts(f"{row.name}-{seed:x}")
        self._deaths: list[tuple[int, float]] = []
        self._chance = random.Random(f"{row.name} {seed}")

    def run(self, cycles: int, deadline: float) -> Result:
        """Run cycles until they are done, one fails, or the time is over."""
        result, began = Result(self._row), monotonic()
        try:
            self._run(cycles, deadline, result)
        except Exception as error:  # what is broken here may be anything
            trace = "".join(traceback.format_exception(error))
            result.problems.append(f"it could not go on: {trace}")
            self._say(result.problems[-1])
        result.seconds = monotonic() - began
        self._history.close()
        if not result.problems:
            shutil.rmtree(self._directory)
        return result

    def _run(self, cycles: int, deadline: float, result: Result) -> None:
        make_accounts(self._stack.engine, self._accounts)
        with self._row.setting(self._stack):
            for number in range(min(cycles, self._row.most_cycles or cycles)):
                if number and monotonic() > deadline:
                    break
                self._cycle(number, result)
                if result.problems:
                    return
        result.problems += check_audit_command(self._stack, is_excused=bool(result.lost))

    def _cycle(self, number: int, result: Result) -> None:
        if number:
            for account in self._accounts:
                if account.more:
                    top_up(self._stack.engine, account.name, f"more-{number}", account.more)
        cycle = Cycle(
            stack=self._stack,
            chance=self._chance,
            history=self._history,
            accounts=self._accounts,
            workspace=self._directory,
            say=self._say,
        )
        passed = run_cycle(cycle, self._row.fault, self._load(number))
        self._accounts += cycle.more_accounts
        self._deaths += [cycle.dead] if cycle.dead else []
        for note, value in cycle.notes.items():
            result.notes[note] = result.notes.get(note, 0.0) + value
            self._say(f"{self._row.name} {number + 1}: {note}: {value:,.1f}")
        verdict = self._check(result)
        verdict.problems[:0] = passed.problems
        self._count(number, passed, verdict, result)

    def _load(self, number: int) -> Load:
        return Load(
            self._stack.traffic,
            [proxy.port for proxy in self._stack.client_proxies],
            self._history,
            self._accounts,
            clients=_CLIENTS,
            seed=self._seed * 1_000 + number,
            manners=self._row.manners,
        )

    def _check(self, result: Result) -> Verdict:
        verdict = Verdict(
            is_lossy=self._row.is_lossy, deaths=self._deaths, problems=self._history.notes()
        )
        calls, names = self._history.calls(), [account.name for account in self._accounts]
        try:
            truth = read_truth(self._stack.engine, names)
            verdict.overdrafts = truth.overdrafts
            check_answers(calls, verdict)
            check_usage(calls, truth, verdict)
            check_overspend(calls, truth, verdict)
            result.compared = check_order(calls, truth, verdict)
            if not self._deaths:
                result.undecided = check_replay(calls, truth, verdict)
            check_balances(self._stack, names, truth, verdict)
            check_audit(self._stack, verdict)
        except (httpx.HTTPError, DBAPIError, redis.RedisError, CreditsError) as error:
            verdict.problems.append(f"it could not be checked: {error!r}")
        return verdict

    def _count(self, number: int, passed: Passed, verdict: Verdict, result: Result) -> None:
        result.cycles += 1
        result.acknowledged += passed.acknowledged
        result.recoveries += passed.recoveries
        result.meanwhile += passed.meanwhile
        result.lost, result.lost_amount = verdict.lost, verdict.lost_amount
        result.overspent, result.doubtful = verdict.overspent, verdict.doubtful
        result.problems = verdict.problems
        worst = max(passed.recoveries, default=0.0)
        self._say(
            f"{self._row.name} {number + 1}: {passed.acknowledged} acknowledged,"
            f" served again after {worst:.2f} s, quiet after {passed.quiet_seconds:.2f} s,"
            f" {dict(passed.meanwhile)}"
        )
        for problem in verdict.problems[:10]:
            self._say(f"{self._row.name} {number + 1}: PROBLEM {problem}")


def _accounts(prefix: str) -> list[Account]:
    """Return accounts of many kinds; the last two are each used by one client alone."""
    return [
        *(Account(f"{prefix}-rich-{at}", _RICH) for at in range(3)),
        *(Account(f"{prefix}-poor-{at}", _POOR, more=_POOR // 2) for at in range(2)),
        Account(f"{prefix}-overdraft", _POOR, more=_POOR // 2, overdraft=_POOR),
        Account(f"{prefix}-outage", _RICH, allowance=_ALLOWANCE),
        *(Account(f"{prefix}-only-{at}", _RICH, only=at) for at in range(2)),
    ]
