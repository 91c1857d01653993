"""The product as it would be with one account, one thread and no faults: what each call does.

A generation has credits available, and some set aside by holds. Every call of the hot path is a
step from one state to another; whoever knows the order of the steps knows every answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from tests.faults.history import Call

CHARGES: Final = ("settle", "debit", "refund")


@dataclass(frozen=True, slots=True)
class Held:
    """An open hold: its amount, what of it is still set aside, what was charged to it."""

    amount: int
    rest: int
    charged: int


@dataclass(frozen=True, slots=True)
class State:
    """An account at one moment, and which steps have led to it.

    `generation` and `refill` count from 0, `seq` is the last event's. `told`: bits of the answers
    that are accounted for; `run`: bits of the calls that were carried out in this generation.
    `guesses`: steps since the last answer of which nobody was told.
    """

    generation: int = 0
    seq: int = 0
    refill: int = 0
    available: int = 0
    told: int = 0
    run: int = 0
    guesses: int = 0
    holds: tuple[tuple[str, Held], ...] = ()

    @property
    def key(self) -> tuple[int, ...]:
        """By what two states are the same."""
        place = self.generation, self.seq, self.refill, self.guesses
        return *place, self.available, self.told, self.run

    def hold(self, id: str) -> Held | None:
        """Return an open hold."""
        return next((held for name, held in self.holds if name == id), None)

    def having(self, id: str, held: Held | None, available: int) -> State:
        """Return the state with another hold, or none, of this id."""
        others = tuple(entry for entry in self.holds if entry[0] != id)
        holds = others if held is None else (*others, (id, held))
        return replace(self, holds=holds, available=available)


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known of a charge beside the call: what it changed, if the ledger says so.

    `before`: what was charged to the hold until then, as its sidecar knew. `is_forced`: it was
    accepted without Redis, and carried out whatever there was.
    """

    change: int | None = None
    before: int = 0
    is_forced: bool = False


_NOTHING: Final = Trace()


def step(state: State, call: Call, overdraft: int, trace: Trace = _NOTHING) -> State | None:
    """Return the state after a call, or None when it cannot be carried out there."""
    match call.operation:
        case "hold":
            return _granted(state.having(
                call.id, Held(call.amount, call.amount, 0), state.available - call.amount
            ), overdraft)  # fmt: skip
        case "debit" if trace.change not in (None, call.amount):
            return None
        case "refund" if trace.change not in (None, -call.amount):
            return None
        case "debit":
            after = replace(state, available=state.available - call.amount)
            return after if trace.is_forced else _granted(after, overdraft)
        case "refund":
            return replace(state, available=state.available + call.amount)
        case "extend":
            return _extended(state, call, overdraft)
        case "release":
            held = state.hold(call.id)
            # Of a hold that was lost nothing is set aside any more.
            freed = held.rest if held else 0
            return state.having(call.id, None, state.available + freed)
        case "settle":
            return _settled(state, call, trace)
    raise AssertionError(f"unknown operation {call.operation}")


def _granted(state: State, overdraft: int) -> State | None:
    return state if state.available >= -overdraft else None


def _extended(state: State, call: Call, overdraft: int) -> State | None:
    held = state.hold(call.id)
    if held is None or call.amount < held.amount:
        return None
    more = call.amount - held.amount
    longer = Held(call.amount, held.rest + more, held.charged)
    return _granted(state.having(call.id, longer, state.available - more), overdraft)


def _settled(state: State, call: Call, trace: Trace) -> State | None:
    held = state.hold(call.id)
    if held is None:
        # Lost with its generation: nothing is set aside for it any more.
        change = trace.change
        held = Held(call.amount, 0, trace.before if change is None else call.amount - change)
    delta = call.amount - held.charged
    if delta < 0 or trace.change not in (None, delta):
        return None
    rest = max(held.rest - delta, 0)
    available = state.available - max(delta - held.rest, 0)
    if call.body.get("final", True):
        return state.having(call.id, None, available + rest)
    return state.having(call.id, Held(held.amount, rest, call.amount), available)
