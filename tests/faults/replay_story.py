"""What is known of one account's history: the answers, the events, the refills."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from tests.faults.history import NO_ANSWER, Attempt, Call
from tests.faults.replay_model import CHARGES
from tests.faults.truth import Event, Truth

INSUFFICIENT = 402


@dataclass(frozen=True, slots=True)
class Told:
    """An answer of Redis that a client got: `available` after the call (or when it was refused).

    It was true at some moment between `sent` and `answered`.
    """

    bit: int
    task: Task
    available: int
    answered: float
    is_refusal: bool = False


@dataclass(slots=True, eq=False)
class Task:
    """A call. `is_open`: it may have been carried out without any client being told by Redis.

    `before`: of a settle, the total of the step before it.
    """

    bit: int
    call: Call
    sent: float
    is_open: bool
    before: int
    told: list[Told] = field(default_factory=list)


@dataclass(slots=True)
class Life:
    """One generation: what is in the ledger by seq, and what refills gave.

    `dropped`: by seq, the amounts of those events that the ledger had already.
    """

    generation: int
    slots: dict[int, Event] = field(default_factory=dict)
    dropped: dict[int, int] = field(default_factory=dict)
    refills: list[int] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The last event's seq."""
        return max(*self.slots, *self.dropped, 0, 0)


@dataclass(slots=True)
class Story:
    """All of it. `tasks` are in the order in which they were sent, `told` in that of answers.

    `sent_after`: for each of `told`, when the first of it and those behind it was sent.
    """

    account: str
    overdraft: int
    tasks: list[Task]
    told: list[Told]
    sent_after: list[float]
    lives: list[Life]
    by_event: dict[tuple[str, str, int, bool], Task]

    def task_of(self, event: Event) -> Task | None:
        """Return the call that left an event."""
        return self.by_event.get((event.operation, event.id, event.total, event.final))


def stories(calls: Sequence[Call], truth: Truth) -> list[Story]:
    """Return what is known of each account."""
    by_account: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_account[call.account].append(call)
    return [_story(account, by_account[account], truth) for account in sorted(by_account)]


def _story(account: str, calls: Sequence[Call], truth: Truth) -> Story:
    ordered = sorted(calls, key=lambda one: one.sent)
    tasks = list(_tasks(ordered))
    answers = [(task, *answer) for task in tasks for answer in _answers(task.call.attempts)]
    answers.sort(key=lambda one: one[2])
    told = [Told(1 << bit, *answer) for bit, answer in enumerate(answers)]
    for one in told:
        one.task.told.append(one)
    sent_after = list(accumulate((one.task.sent for one in reversed(told)), min))
    by_event = {
        (t.call.operation, t.call.id, t.call.amount, bool(t.call.body.get("final", True))): t
        for t in tasks
        if t.call.operation in CHARGES
    }
    lives = _lives(account, truth)
    overdraft = truth.overdrafts[account]
    return Story(account, overdraft, tasks, told, sent_after[::-1], lives, by_event)


def _tasks(calls: Sequence[Call]) -> Iterator[Task]:
    totals: dict[str, int] = {}
    for bit, call in enumerate(calls):
        yield Task(1 << bit, call, call.sent, _is_open(call), totals.get(call.id, 0))
        if call.operation == "settle":
            totals[call.id] = call.amount


def _is_open(call: Call) -> bool:
    return any(a.http == NO_ANSWER or a.is_bad or a.is_degraded for a in call.attempts)


def _answers(attempts: Sequence[Attempt]) -> list[tuple[int, float, bool]]:
    """Return what Redis told: each different answer once, with the first time that it came."""
    first: dict[tuple[int, bool], float] = {}
    for attempt in attempts:
        is_refusal = attempt.http == INSUFFICIENT
        if is_refusal:
            available = int(attempt.fields["error"]["available"])
        elif attempt.is_done and not attempt.is_degraded:
            available = int(attempt.fields["available"])
        else:
            continue
        key = (available, is_refusal)
        first[key] = min(first.get(key, attempt.answered), attempt.answered)
    return [(available, at, is_refusal) for (available, is_refusal), at in first.items()]


def _lives(account: str, truth: Truth) -> list[Life]:
    lives: dict[int, Life] = {}
    for refill in truth.refills:
        if refill.account == account:
            life = lives.setdefault(refill.generation, Life(refill.generation))
            life.refills.append(refill.amount)
    for event in truth.events:
        if event.account == account:
            lives[event.generation].slots[event.seq] = event
    for name, generation, seq, amount in truth.duplicates:
        if name == account:
            lives[generation].dropped[seq] = amount
    return [lives[number] for number in sorted(lives)]
