"""Random histories of one account: the scripts in a real Redis against the model, call by call.

After each call the reply, what is available, held and left of each grant, and the events are
compared, and the invariants I1 to I3 are asserted.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import redis
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sidecar.domain import Category, burn_order
from tests.lua.consistent import check_consistent
from tests.lua.support import HOUR_MS, Account, Event, Reply
from tests.lua.table import charge_of
from tests.properties import histories
from tests.properties.model import Model

AMOUNTS: Final = st.integers(0, 60) | st.sampled_from([100, 250])
HOURS: Final = st.integers(1, 5)
CATEGORIES: Final = st.sampled_from(list(Category))
STATUSES: Final = st.sampled_from(["active"] * 6 + ["grace", "suspended", "closed"])
MARKS: Final = st.sampled_from([0, 0, 1, 50, 200])
MAX_GRANTS: Final = 40
"""Fewer than one call may empty, so that every overdraft is covered at once."""


class ScriptHistories(RuleBasedStateMachine):
    """One account, called at random. Time passes only where a rule says so, by the hour."""

    client: ClassVar[redis.Redis]

    def __init__(self) -> None:
        super().__init__()
        self.account = self._new_account()
        self.model = Model()
        self.passed_ms = 0
        self.grant_count = self.id_count = 0
        self.requests: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.undone: set[int] = set()

    @initialize(overdraft=st.sampled_from([0, 0, 30, 200]), mark=MARKS, amount=st.integers(0, 400))
    def open(self, overdraft: int, mark: int, amount: int) -> None:
        assert self.account.open(overdraft=overdraft, mark=mark) == ["applied"]
        self.model.overdraft, self.model.mark = overdraft, mark
        self._grant(amount, 50, "paid", None)

    # What the sidecar calls ------------------------------------------------------------------

    @rule(data=st.data(), amount=AMOUNTS, hours=HOURS, partial=st.sampled_from([0, 0, 1]))
    def hold(self, data: st.DataObject, amount: int, hours: int, partial: int) -> None:
        self._call("hold", self._id(data), amount, ttl_ms=hours * HOUR_MS, partial=partial)

    @rule(data=st.data(), more=st.integers(-20, 1), hours=HOURS)
    def hold_about_what_is_there(self, data: st.DataObject, more: int, hours: int) -> None:
        amount = max(0, self.model.available() + self.model.overdraft + more)
        self._call("hold", self._id(data), amount, ttl_ms=hours * HOUR_MS)

    @precondition(lambda self: self._has_holds())
    @rule(data=st.data(), more=st.integers(-5, 60), final=st.sampled_from([0, 1]))
    def settle(self, data: st.DataObject, more: int, final: int) -> None:
        id = self._id_of_hold(data)
        known = self.model.records.get(id)
        total = max(0, known.charged + more) if known else 5
        self._call("settle", id, total, final=final)

    @precondition(lambda self: self._has_holds())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self._call("release", self._id_of_hold(data))

    @precondition(lambda self: self._has_holds())
    @rule(data=st.data(), more=st.integers(-5, 60), hours=st.sampled_from([0, 0, 1, 4]))
    def extend(self, data: st.DataObject, more: int, hours: int) -> None:
        id = self._id_of_hold(data)
        known = self.model.records.get(id)
        amount = max(1, known.amount + more) if known else 5
        self._call("extend", id, amount, hours * HOUR_MS)

    @rule(data=st.data(), amount=AMOUNTS)
    def debit(self, data: st.DataObject, amount: int) -> None:
        self._call("debit", self._id(data), amount)

    @precondition(lambda self: self.model.records)
    @rule(data=st.data(), amount=st.integers(0, 40))
    def refund(self, data: st.DataObject, amount: int) -> None:
        records = self.model.records.items()
        charged = [id for id, record in records if sum(record.charges.values())]
        of = data.draw(st.sampled_from([*charged * 3, *self.model.records, "never"]))
        self._call("refund", self._id(data), of, amount)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), amount=st.none() | AMOUNTS.filter(bool))
    def repeat(self, data: st.DataObject, amount: int | None) -> None:
        verb, args, options = data.draw(st.sampled_from(self.requests))
        if amount is not None:
            args = tuple(amount if isinstance(arg, int) else arg for arg in args)
        self._call(verb, *args, **options)

    # What the worker sends -------------------------------------------------------------------

    @precondition(lambda self: self.grant_count < MAX_GRANTS)
    @rule(
        amount=st.integers(0, 150),
        priority=st.sampled_from([0, 50, 50, 100]),
        category=CATEGORIES,
        hours=st.none() | st.integers(-1, 5),
    )
    def grant(self, amount: int, priority: int, category: Category, hours: int | None) -> None:
        self._grant(amount, priority, category, hours)

    @rule(data=st.data(), amount=AMOUNTS.filter(bool))
    def take(self, data: st.DataObject, amount: int) -> None:
        grant_no = data.draw(st.integers(0, self.grant_count))
        self._refill("take", amount, grant_no)

    @rule(data=st.data(), keep=st.sampled_from([0, 0, 1, 30, 150]), hours=st.integers(-1, 9))
    def roll(self, data: st.DataObject, keep: int, hours: int) -> None:
        some = data.draw(st.lists(st.integers(1, self.grant_count + 1), max_size=5, unique=True))
        category, number = data.draw(CATEGORIES), self.model.refill_no + 1
        expires = hours * HOUR_MS + self.account.now_ms() if hours else None
        ends = expires and expires + self.passed_ms
        orders = [(no, burn_order(50, expires, category, no), ends) for no in some]
        grants = [(no, expires) for no in some]
        self._set_clock()
        self._compare(
            self.account.roll(keep, grants, category=category, refill_no=number),
            self.model.do("roll", keep, orders, refill_no=number),
        )

    @rule(status=STATUSES, overdraft=st.sampled_from([0, 30, 200]), mark=MARKS)
    def set_status(self, status: str, overdraft: int, mark: int) -> None:
        number = self.model.refill_no + 1
        self._set_clock()
        self._compare(
            self.account.status(status, overdraft, mark=mark, refill_no=number),
            self.model.do("set_status", status, overdraft, mark, refill_no=number),
        )

    @precondition(lambda self: self._undoable())
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self._undoable()))
        self.undone.add(event.seq)
        number = self.model.refill_no + 1
        self._set_clock()
        self._compare(
            self.account.restore(event.allocations, refill_no=number),
            self.model.do("restore", event.parts(), refill_no=number),
        )

    @rule(data=st.data(), amount=AMOUNTS.filter(bool))
    def refill_out_of_order(self, data: st.DataObject, amount: int) -> None:
        now = self.model.refill_no
        number = data.draw(st.integers(1, now) | st.integers(now + 2, now + 9))
        self._refill("take", amount, 0, refill_no=number)

    # Time ------------------------------------------------------------------------------------

    @rule(hours=HOURS, is_swept=st.booleans())
    def pass_time(self, hours: int, is_swept: bool) -> None:
        self.account.pass_time(hours * HOUR_MS)
        self.passed_ms += hours * HOUR_MS
        if is_swept:
            self._call("expire")

    @rule()
    def pass_midnight(self) -> None:
        self.account.pass_midnight()
        self.model.pass_midnight()

    # What holds after each call --------------------------------------------------------------

    @invariant()
    def redis_is_consistent(self) -> None:
        check_consistent(self.account)

    @invariant()
    def redis_is_as_the_model(self) -> None:
        if not self.account.fields():
            return
        number = self.account.number
        assert (number("available"), number("held")) == (self.model.available(), self.model.held())
        assert self.account.left() == self.model.left()
        assert number("refill_no") == self.model.refill_no
        assert [charge_of(event) for event in self.account.events()] == self.model.events
        assert self.account.holds().keys() == self.model.open_holds().keys()

    @invariant()
    def redis_rings_as_the_model(self) -> None:
        assert self.account.rings() == self.model.rings

    def _new_account(self) -> Account:
        self.client.flushdb()
        return Account(self.client)

    # How -------------------------------------------------------------------------------------

    def _has_holds(self) -> bool:
        return any(record.kind == "hold" for record in self.model.records.values())

    def _id(self, data: st.DataObject) -> str:
        """Draw an id, most often a new one."""
        known = list(self.model.records)
        return data.draw(st.sampled_from([f"i{self.id_count}"] * (3 + 2 * len(known)) + known))

    def _id_of_hold(self, data: st.DataObject) -> str:
        """Draw the id of a hold that runs, if there is one, or any id."""
        return data.draw(
            st.sampled_from([*self.model.open_holds()] * 3 + [*self.model.records, "never"])
        )

    def _undoable(self) -> list[Event]:
        if not self.account.fields():
            return []
        usage = ("settle", "debit", "refund")
        events = self.account.events()
        return [e for e in events if e.operation in usage and e.seq not in self.undone and e.amount]

    def _set_clock(self) -> None:
        self.model.clock_ms = self.account.now_ms() + self.passed_ms

    def _call(self, verb: str, *args: Any, **options: Any) -> Reply:
        self._set_clock()
        self.id_count += 1
        available = self.model.available()
        expected = self.model.do(verb, *args, **options)
        reply: Reply = getattr(self.account, verb)(*args, **options)
        self._compare(reply, expected)
        if verb != "expire":
            self.requests.append((verb, args, options))
        # An extend without a time answers the instant that the record has: no time passes there.
        has_time = verb == "hold" or (verb == "extend" and args[2])
        if has_time and reply[:2] == ["held", 0]:
            self.model.records[args[0]].ends_at_ms = reply[4] + self.passed_ms
        if verb in ("hold", "extend", "debit") and self.model.available() < available:
            # I2: whatever it is allowed, it never goes beyond the overdraft.
            assert self.account.number("available") >= -self.model.overdraft
        return reply

    def _grant(self, amount: int, priority: int, category: str, hours: int | None) -> None:
        self._set_clock()
        self.grant_count += 1
        # Seconds before the hour: when hours have passed it is due, whatever the tests' own time.
        expires = hours and self.account.now_ms() + hours * HOUR_MS - self.grant_count * 1_000
        ends = expires and expires + self.passed_ms
        self._refill(
            "grant",
            self.grant_count,
            amount,
            priority=priority,
            category=category,
            expires_at_ms=expires,
            of_model={"ends_at_ms": ends},
        )

    def _refill(self, verb: str, *args: Any, of_model: Any = None, **options: Any) -> None:
        self._set_clock()
        options = {"refill_no": self.model.refill_no + 1} | options
        expected = self.model.do(verb, *args, **options, **(of_model or {}))
        self._compare(getattr(self.account, verb)(*args, **options), expected)

    def _compare(self, reply: Reply, expected: Reply) -> None:
        note(f"{reply}")
        assert reply == expected


def test_the_scripts_do_what_the_model_does(redis_client: redis.Redis) -> None:
    class Histories(ScriptHistories):
        client = redis_client

    run_state_machine_as_test(Histories, settings=histories(steps=40, few=60))
