"""The form of the conformance tables: rows of `(before, call, reply, after)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.lua.consistent import check_consistent
from tests.lua.support import Account, Event, Reply

Step = Callable[[Account], Any]
Charge = tuple[str, str, int, int, int, dict[int, int]]
"""Operation, id, amount, total, flags and allocations of an event."""


class _Steps:
    """`do.hold("h", 60)` is the step that makes this call of the account it is given."""

    def __getattr__(self, name: str) -> Callable[..., Step]:
        def step_of(*args: Any, **options: Any) -> Step:
            return lambda account: getattr(account, name)(*args, **options)

        return step_of


do: Final = _Steps()


@dataclass(frozen=True, slots=True)
class After:
    """The account after a call, and the events that the call wrote. `left` names every grant.

    `rings` is how often it told that the account has run low; None: no matter.
    """

    available: int
    held: int = 0
    left: Mapping[int, int] | None = None
    events: Sequence[Charge] = ()
    rings: int | None = None


UNCHANGED: Final = None
"""Nothing in Redis has changed, to the byte."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a conformance table. `replays` says that the same call again gets the reply again.

    A replay has 1 where the first reply had 0, right after the status, and changes nothing.
    """

    name: str
    call: Step
    reply: Reply
    after: After | None = UNCHANGED
    before: Sequence[Step] = ()
    replays: bool = False
    is_covered: bool = True

    def check(self, account: Account) -> None:
        """Do what comes before, make the call, and compare all that there is afterwards."""
        for step in self.before:
            step(account)
        check_consistent(account, is_covered=self.is_covered)
        dump, seq, rung = account.dump(), len(account.events()), account.rings()
        reply = self.call(account)
        assert reply == self.reply
        if self.after is None:
            assert account.dump() == dump
            return
        check_consistent(account, is_covered=self.is_covered)
        _compare(account, self.after, account.events()[seq:])
        if self.after.rings is not None:
            assert account.rings() - rung == self.after.rings
        if self.replays:
            dump = account.dump()
            assert self.call(account) == [reply[0], 1, *reply[2:]]
            assert account.dump() == dump


def _compare(account: Account, after: After, events: Sequence[Event]) -> None:
    assert (account.number("available"), account.number("held")) == (after.available, after.held)
    if after.left is not None:
        assert account.left() == after.left
    assert [charge_of(event) for event in events] == list(after.events)


def charge_of(event: Event) -> Charge:
    """Return an event as the tables write it."""
    return event.operation, event.id, event.amount, event.total, event.flags, event.parts()


def funded(amount: int = 100, *, overdraft: int = 0, status: str = "active") -> list[Step]:
    """Return the steps to an account with one grant, number 1, that never expires."""
    return [do.open(overdraft=overdraft, status=status), do.grant(1, amount)]


def crowded(count: int) -> list[Step]:
    """Return the steps to an account in which `count` holds of 1 have run out."""
    holds = [do.hold(f"old{n}", 1, ttl_ms=1_000) for n in range(count)]
    return [*funded(), *holds, do.pass_time(2_000)]


def refused_first(call: Step) -> list[Row]:
    """Return the rows of what every script refuses before anything else."""
    return [
        Row("an account that Redis does not have is unknown", call, ["unknown"]),
        Row("another epoch is fenced", call, ["fenced"], before=[*funded(), do.use(epoch=2)]),
    ]


def again_first(call: Step) -> Row:
    """Return the row of a script that finds more due to expire than one call may end."""
    return Row(
        "with more due than one call may end it ends 16 and asks to be called again",
        call,
        ["again"],
        After(available=99, held=1, left={1: 99}),
        before=crowded(17),
    )


def refill_first(verb: str, *args: Any, **options: Any) -> list[Row]:
    """Return the rows of what every refill of an open account refuses before anything else."""

    def send(**number: int) -> Step:
        step: Step = getattr(do, verb)(*args, **options, **number)
        return step

    return [
        *refused_first(send(refill_no=2)),
        Row("another generation is stale", send(gen=2), ["stale"], before=funded()),
        Row("a stale one is stale whatever its number", send(gen=2, refill_no=1), ["stale"],
            before=funded()),
        Row("one that the account had is replayed", send(refill_no=2), ["replayed", 2],
            before=funded()),
        Row("an older one is replayed", send(refill_no=1), ["replayed", 2], before=funded()),
        Row("one too far ahead is a gap", send(refill_no=4), ["gap", 2], before=funded()),
        again_first(send(refill_no=3)),
    ]  # fmt: skip
