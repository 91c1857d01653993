"""Is there one order of all calls in which one thread would have given every answer?

A search for a linearization (Wing and Gong, 1993; Lowe, 2017), made quick by two things: the
ledger's events come in the order of their generation and seq, and nearly every answer names the
credits that were available just after it. So from most states exactly one step leads on.

Calls without an answer may have been carried out or not: that is guessed, with few guesses in a row
at first. What an old generation did that nobody acknowledged is not in the ledger: its place in the
order is a gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from tests.faults.check_usage import Verdict
from tests.faults.history import Call
from tests.faults.replay_model import CHARGES, State, Trace, step
from tests.faults.replay_story import Story, Task, Told, stories
from tests.faults.truth import Truth

MOST_STATES: Final = 100_000
_GUESSES: Final = (1, 2, 3, 5, 1_000)
_NEVER: Final = float("inf")
_NO_EFFECT: Final = ("cover", "take", "expire")


def check_replay(calls: Sequence[Call], truth: Truth, verdict: Verdict) -> int:
    """Look for such an order of each account's calls; return for how many it was not decided."""
    undecided = 0
    for story in stories(calls, truth):
        is_explained, problem = explain(story)
        if problem is not None:
            verdict.problems.append(f"{story.account}: no order explains it. {problem}")
        undecided += is_explained is None
    return undecided


def explain(story: Story, most_states: int = MOST_STATES) -> tuple[bool | None, str | None]:
    """Tell whether there is an order; None when that takes too long. If not, say what is wrong."""
    for guesses in _GUESSES:
        search = Search(story, guesses, most_states)
        if search.run():
            return True, None
        if not search.is_exhausted:
            return None, None
        if not search.is_limited:
            break
    return False, search.problem()


class Search:
    """A depth-first search through the states of one account.

    `is_exhausted`: it has been everywhere. `is_limited`: there was more that could be guessed.
    """

    def __init__(self, story: Story, guesses: int, most_states: int) -> None:
        self._story = story
        self._guesses = guesses
        self._all = (1 << len(story.told)) - 1
        self._most = most_states
        self._seen: set[tuple[int, ...]] = set()
        self._best = State()
        self.is_exhausted = False
        self.is_limited = False

    def run(self) -> bool:
        """Tell whether there is an order."""
        stack = [self._next(State())]
        while stack:
            state = next(stack[-1], None)
            if state is None:
                stack.pop()
                continue
            if state.told == self._all:
                return True
            if state.key in self._seen:
                continue
            if len(self._seen) >= self._most:
                return False
            self._seen.add(state.key)
            if state.told.bit_count() >= self._best.told.bit_count():
                self._best = state
            stack.append(self._next(state))
        self.is_exhausted = True
        return self._all == 0

    def problem(self) -> str:
        """Say how far it went, and which answers could not come next."""
        best = self._best
        missing = [one for one in self._story.told if not best.told & one.bit][:4]
        answers = "; ".join(
            f"{one.task.call}{' refused' if one.is_refusal else ''} with available"
            f" {one.available} after {one.task.call.amount}, at {one.task.sent:.3f}"
            for one in missing
        )
        life = self._story.lives[best.generation]
        return (
            f"After {best.told.bit_count()} of {len(self._story.told)} answers, generation"
            f" {life.generation}, seq {best.seq}, available {best.available}: {answers}"
        )

    # The steps that may come next, the most likely first ---------------------------------------

    def _next(self, state: State) -> Iterator[State]:
        told = self._story.told
        first = _first_open(state)
        deadline = told[first].answered if first < len(told) else _NEVER
        events = list(self._event(state, deadline))
        yield from (after for after in events if after.told != state.told)
        yield from self._answers(state, deadline)
        yield from (after for after in events if after.told == state.told)
        yield from self._refill(state)
        if state.guesses < self._guesses:
            yield from self._guessed(state, deadline)
        else:
            self.is_limited = True
        yield from self._next_life(state)

    def _guessed(self, state: State, deadline: float) -> Iterator[State]:
        state = replace(state, guesses=state.guesses + 1)
        yield from self._untold(state, deadline)
        yield from self._unknown_event(state, deadline)

    def _event(self, state: State, deadline: float) -> Iterator[State]:
        """The next event of the ledger."""
        life = self._story.lives[state.generation]
        event = life.slots.get(state.seq + 1)
        if event is None:
            return
        if event.operation in _NO_EFFECT:
            yield replace(state, seq=event.seq)
            return
        task = self._story.task_of(event)
        if task is not None and task.sent <= deadline:
            trace = Trace(event.amount, task.before, is_forced=event.degraded)
            yield from self._carried_out(state, task, trace)

    def _carried_out(self, state: State, task: Task, trace: Trace) -> Iterator[State]:
        """A charge takes the next seq, and its client was told of it, or it was not."""
        after = step(state, task.call, self._story.overdraft, trace)
        if after is None or state.run & task.bit:
            return
        after = replace(after, seq=state.seq + 1, run=state.run | task.bit)
        told = _matching(task, after)
        if told is not None:
            yield replace(after, told=after.told | told.bit, guesses=0)
        elif task.is_open:
            yield after

    def _answers(self, state: State, deadline: float) -> Iterator[State]:
        """A call that leaves no event, of which the client was told just this."""
        for one in self._open_answers(state, deadline):
            call = one.task.call
            if one.is_refusal:
                if state.available == one.available:
                    yield replace(state, told=state.told | one.bit, guesses=0)
            elif call.operation not in CHARGES and not state.run & one.task.bit:
                after = step(state, call, self._story.overdraft)
                if after is not None and after.available == one.available:
                    told, run = state.told | one.bit, state.run | one.task.bit
                    yield replace(after, told=told, run=run, guesses=0)

    def _open_answers(self, state: State, deadline: float) -> Iterator[Told]:
        for at in range(_first_open(state), len(self._story.told)):
            if self._story.sent_after[at] > deadline:
                return
            one = self._story.told[at]
            if one.task.sent <= deadline and not state.told & one.bit:
                yield one

    def _refill(self, state: State) -> Iterator[State]:
        refills = self._story.lives[state.generation].refills
        if state.refill < len(refills):
            available = state.available + refills[state.refill]
            yield replace(state, refill=state.refill + 1, available=available)

    def _untold(self, state: State, deadline: float) -> Iterator[State]:
        """A call that leaves no event was carried out, and no client was told."""
        for task in self._story.tasks:
            if task.sent > deadline:
                return
            if task.is_open and not state.run & task.bit and task.call.operation not in CHARGES:
                after = step(state, task.call, self._story.overdraft)
                if after is not None and after.available != state.available:
                    yield replace(after, run=state.run | task.bit)

    def _unknown_event(self, state: State, deadline: float) -> Iterator[State]:
        """An event that the ledger has not in this place: lost, or dropped as a duplicate."""
        life = self._story.lives[state.generation]
        is_last = state.generation + 1 == len(self._story.lives)
        place = state.seq + 1
        if place in life.slots or (is_last and place not in life.dropped):
            return
        for task in self._story.tasks:
            if task.sent > deadline:
                break
            may_be = task.is_open or any(not state.told & one.bit for one in task.told)
            if may_be and task.call.operation in CHARGES:
                trace = Trace(life.dropped.get(place), task.before)
                yield from self._carried_out(state, task, trace)
        if place < life.last:
            yield replace(state, seq=place)

    def _next_life(self, state: State) -> Iterator[State]:
        is_last = state.generation + 1 == len(self._story.lives)
        if not is_last and state.seq >= self._story.lives[state.generation].last:
            yield State(generation=state.generation + 1, told=state.told)


def _matching(task: Task, state: State) -> Told | None:
    """Return the answer to a call that names just what is available now, if it is still open."""
    for one in task.told:
        is_open = not state.told & one.bit
        if is_open and not one.is_refusal and one.available == state.available:
            return one
    return None


def _first_open(state: State) -> int:
    """Return the number of the first answer that is not accounted for."""
    return (~state.told & (state.told + 1)).bit_length() - 1
