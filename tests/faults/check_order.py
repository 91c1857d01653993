"""Is the ledger's order of events one in which the clients could have seen them?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.check_usage import Verdict
from tests.faults.history import Call
from tests.faults.truth import Event, Truth


@dataclass(frozen=True, slots=True)
class Placed:
    """An event and the interval in which it happened, as its client knows it."""

    event: Event
    call: Call
    sent: float
    answered: float


def check_order(calls: Sequence[Call], truth: Truth, verdict: Verdict) -> int:
    """Check that what was acknowledged before another call was sent comes before it.

    By generation and seq. Left out is what has no place of its own: what was accepted without
    Redis and carried out afterwards. Returns how many events were compared.
    """
    by_account: dict[str, list[Placed]] = defaultdict(list)
    for placed in place(calls, truth.events):
        by_account[placed.event.account].append(placed)
    for order in by_account.values():
        _check(order, verdict)
    return sum(map(len, by_account.values()))


def place(calls: Sequence[Call], events: Sequence[Event]) -> list[Placed]:
    """Return the events with the calls that made them, in the ledger's order."""
    asked: dict[tuple[str, str, str, int], list[Call]] = defaultdict(list)
    for call in calls:
        asked[call.account, call.id, call.operation, call.amount].append(call)
    placed = []
    for event in sorted(events, key=lambda one: (one.account, one.generation, one.seq)):
        same = asked.get((event.account, event.id, event.operation, _total(event)), [])
        matching = [call for call in same if bool(call.body.get("final", True)) == event.final]
        if event.degraded or len(matching) != 1:
            continue
        (call,) = matching
        done = call.done
        answered = done.answered if done is not None else float("inf")
        placed.append(Placed(event, call, call.sent, answered))
    return placed


def _total(event: Event) -> int:
    return event.total if event.operation != "refund" else -event.amount


def _check(order: Sequence[Placed], verdict: Verdict) -> None:
    """Look from the end for an event that was answered before an earlier one was sent."""
    first_answered: Placed | None = None
    for placed in reversed(order):
        if first_answered is not None and first_answered.answered < placed.sent:
            verdict.problems.append(
                f"{first_answered.call} was acknowledged before {placed.call} was sent, but comes"
                f" after it: {first_answered.event} and {placed.event}"
            )
        if first_answered is None or placed.answered < first_answered.answered:
            first_answered = placed
