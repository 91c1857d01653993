"""Is every acknowledged charge in the ledger once, and nothing that nobody asked for?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.faults.history import Attempt, Call
from tests.faults.truth import Event, Truth

UNFLUSHED_SECONDS: Final = 3.0
"""How long, at most, an event is on its way to the ledger when all is well."""

_CHARGES: Final = ("settle", "debit", "refund")

Key = tuple[str, str]
"""An account and a caller's id in it."""

_REFUSALS: Final = {
    "hold": {"insufficient_credits"},
    "debit": {"insufficient_credits"},
    "extend": {"insufficient_credits"},
    "refund": set[str](),
    "settle": set[str](),
    "release": set[str](),
}


@dataclass(slots=True)
class Verdict:
    """What is wrong. `lost`: acknowledged charges that are missing or short, in microcredits too.

    `overspent`: microcredits beyond what accounts may spend. `doubtful`: calls that were refused
    after an attempt without an answer that had been carried out. `is_lossy`: a Redis was lost.
    `deaths`: sidecars whose disk was destroyed, and when; what they had not handed in may be lost.
    `overdrafts`: how far below zero accounts may go.
    """

    is_lossy: bool = False
    deaths: Sequence[tuple[int, float]] = ()
    overdrafts: Mapping[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    lost: int = 0
    lost_amount: int = 0
    overspent: int = 0
    doubtful: int = 0

    def is_excused(self, call: Call) -> bool:
        """Tell whether the sidecar that acknowledged a call lost it with its disk."""
        done = call.done
        return done is not None and any(
            done.sidecar == sidecar and at - UNFLUSHED_SECONDS < done.answered <= at
            for sidecar, at in self.deaths
        )


def check_usage(calls: Sequence[Call], truth: Truth, verdict: Verdict) -> None:
    """Compare what was acknowledged with the usage events of the ledger."""
    events: dict[Key, list[Event]] = defaultdict(list)
    for event in truth.events:
        if event.operation in _CHARGES:
            events[event.account, event.id].append(event)
    asked: dict[Key, list[Call]] = defaultdict(list)
    for call in calls:
        if call.operation in _CHARGES:
            asked[call.account, call.id].append(call)
    for key in events.keys() - asked.keys():
        verdict.problems.append(f"nobody asked for {events[key]}")
    for key, about in asked.items():
        _check_id(about, events.get(key, []), verdict)


def check_answers(calls: Sequence[Call], verdict: Verdict) -> None:
    """Look for answers that the contract does not allow."""
    for call in calls:
        for problem in _answers(call, verdict):
            verdict.problems.append(f"{call}: {problem}")


def check_overspend(calls: Sequence[Call], truth: Truth, verdict: Verdict) -> None:
    """Add up what accounts spent beyond what they may.

    Below zero an account may be by its overdraft, by what was settled above its hold or late, by
    what was granted without Redis, and by a refund that nobody acknowledged and a loss undid.
    """
    excused: dict[str, int] = defaultdict(int)
    for event in truth.events:
        if event.operation in _CHARGES and (event.late or event.degraded):
            excused[event.account] += max(event.amount, 0)
    holds = {(call.account, call.id): _granted(call) for call in calls if call.operation == "hold"}
    for call in calls:
        if call.operation == "settle":
            above = call.amount - holds.get((call.account, call.id), 0)
            excused[call.account] += max(above, 0)
        elif call.operation == "refund" and call.is_in_doubt:
            excused[call.account] += call.amount
    for account, balance in truth.balances.items():
        beyond = -balance - truth.overdrafts[account] - excused[account]
        if beyond > 0:
            verdict.overspent += beyond
            verdict.problems.append(f"{account} is overspent by {beyond}: it has {balance}")
        if balance != truth.granted[account] - _spent(account, truth):
            verdict.problems.append(f"{account} has {balance}, which is not granted less spent")


def _check_id(calls: Sequence[Call], events: Sequence[Event], verdict: Verdict) -> None:
    operation = calls[0].operation
    if any(call.operation != operation for call in calls):
        verdict.problems.append(f"{calls[0]} and others share an id")
        return
    charged = sum(event.amount for event in events)
    if operation == "refund":
        charged = -charged
    told = max((_told(call) for call in calls if call.done), default=0)
    if charged < told:
        verdict.lost += 1
        verdict.lost_amount += told - charged
        if not any(map(verdict.is_excused, calls)):
            verdict.problems.append(f"lost: {calls[0]} was told {told}, the ledger has {charged}")
    elif charged not in {told, *_possible(calls)}:
        verdict.problems.append(f"{calls[0]} was told {told}, the ledger has {charged}: {events}")
    if operation != "settle" and len(events) > 1:
        verdict.problems.append(f"{calls[0]} is in the ledger {len(events)} times")
    finals = sum(event.final for event in events)
    if operation == "settle" and finals > 1:
        verdict.problems.append(f"{calls[0]} has {finals} ends")
    if any(call.refusal for call in calls) and charged > told:
        verdict.doubtful += 1


def _told(call: Call) -> int:
    """Return what a call was told to have charged (or refunded) in all."""
    done = call.done
    assert done is not None
    return int(done.fields["refunded" if call.operation == "refund" else "charged"])


def _possible(calls: Sequence[Call]) -> set[int]:
    """Return what may have been charged by calls whose outcome nobody told."""
    return {call.amount for call in calls if call.done is None and call.is_in_doubt}


def _granted(call: Call) -> int:
    done = call.done
    return int(done.fields["amount"]) if done else 0


def _spent(account: str, truth: Truth) -> int:
    return sum(
        event.amount
        for event in truth.events
        if event.account == account and event.operation in _CHARGES
    )


def _answers(call: Call, verdict: Verdict) -> Iterator[str]:
    done = [attempt for attempt in call.attempts if attempt.is_done]
    for attempt in call.attempts:
        if attempt.http == 500:
            yield f"answered 500: {attempt.fields}"
    if call.refusal is not None and not _may_refuse(call, call.refusal, verdict):
        yield f"refused: {call.refusal.fields}"
    for attempt in done:
        yield from _figures(call, attempt, verdict.overdrafts.get(call.account, 0))
    if not verdict.is_lossy:
        yield from _disagreements(done)


def _may_refuse(call: Call, refusal: Attempt, verdict: Verdict) -> bool:
    if refusal.code in _REFUSALS[call.operation]:
        return True
    if refusal.code != "hold_not_found":
        return False
    # A sidecar without its journal knows nothing of the holds that it granted.
    is_burnt = any(sidecar == call.home for sidecar, _ in verdict.deaths)
    return is_burnt or (verdict.is_lossy and call.operation in ("refund", "extend"))


def _figures(call: Call, attempt: Attempt, overdraft: int) -> Iterator[str]:
    fields = attempt.fields
    name = {"settle": "charged", "debit": "charged", "refund": "refunded"}.get(call.operation)
    if name is not None and fields[name] != call.amount:
        yield f"answered {name} {fields[name]}"
    is_grant = call.operation in ("hold", "debit", "extend")
    if is_grant and attempt.is_fresh and fields["available"] < -overdraft:
        yield f"granted beyond what was available: {fields}"


def _disagreements(done: Sequence[Attempt]) -> Iterator[str]:
    """Yield how answers to one call differ: without a loss all are the first one again."""
    settled = [attempt for attempt in done if not attempt.is_degraded]
    fresh = [attempt for attempt in settled if not attempt.fields["replayed"]]
    if len(fresh) > 1:
        yield f"carried out {len(fresh)} times: {[attempt.fields for attempt in fresh]}"
    answers = [attempt.fields | {"replayed": True} for attempt in settled]
    if any(answer != answers[0] for answer in answers):
        yield f"answered in different ways: {answers}"
