"""What the scripts should do, said as plainly as possible: one account as a Python object.

The one place beside `lua/` that adds and subtracts credits (in microcredits). Sums are computed
from what there is rather than kept, and nothing here is fast. It answers as the scripts do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import ANY

from sidecar.domain import burn_order
from tests.lua.support import Reply
from tests.lua.table import Charge

EXPIRE_ITEMS: Final = 16
"""Things that one call may end."""

Parts = dict[int, int]
"""Credits by the grant that they belong to, in the order in which they came; 0 is the overdraft."""


@dataclass
class Grant:
    """A grant that has not expired."""

    order: str
    left: int
    ends_at_ms: int | None


@dataclass
class Record:
    """What is known of a hold, debit or refund.

    `told` is what was available when the amount of a hold was set, `is_all` whether a refund was of
    all that was left; `age` counts the days since the record was last changed.
    """

    kind: str
    state: str
    request: tuple[Any, ...]
    answer: Reply
    amount: int = 0
    ends_at_ms: int = 0
    held: Parts = field(default_factory=dict)
    charges: Parts = field(default_factory=dict)
    charged: int = 0
    latest: tuple[Any, ...] = ()
    latest_answer: Reply = field(default_factory=list)
    told: int = 0
    is_all: bool = False
    age: int = 0


def add(parts: Parts, more: Iterable[tuple[int, int]]) -> None:
    """Add to parts; what sums to nothing goes."""
    for grant_no, amount in more:
        parts[grant_no] = parts.get(grant_no, 0) + amount
        if parts[grant_no] == 0:
            del parts[grant_no]


@dataclass
class Model:
    """One account. Set `clock_ms` before each call."""

    overdraft: int = 0
    status: str = "active"
    pool: int = 0
    refill_no: int = 1
    clock_ms: int = 0
    grants: dict[int, Grant] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    events: list[Charge] = field(default_factory=list)

    # What there is ---------------------------------------------------------------------------

    def left(self) -> Parts:
        """Return what is left of each grant."""
        return {grant_no: grant.left for grant_no, grant in self.grants.items()}

    def open_holds(self) -> dict[str, Record]:
        """Return the holds that run."""
        return {id: record for id, record in self.records.items() if record.state == "held"}

    def available(self) -> int:
        """Return what may be spent before the overdraft."""
        return sum(self.left().values()) + self.pool

    def held(self) -> int:
        """Return what the open holds have set aside."""
        return sum(sum(record.held.values()) for record in self.open_holds().values())

    # Calls -----------------------------------------------------------------------------------

    def hold(self, id: str, amount: int, *, ttl_ms: int, partial: int = 0) -> Reply:
        """Hold."""
        if self._is_more_due():
            return ["again"]
        request = ("hold", amount, ttl_ms, partial)
        if id in self.records:
            return self._first_answer(id, request)
        if self.status in ("suspended", "closed"):
            return [self.status, ""]
        is_less = bool(partial) and amount > self.available()
        if is_less and self.available() > 0:
            amount = self.available()
        elif is_less or amount > self.available() + self.overdraft:
            return ["insufficient", self.available(), self.overdraft]
        held = self._burn(amount)
        answer = ["held", 0, amount, self.available(), ANY, int(is_less), ""]
        self.records[id] = Record("hold", "held", request, answer, amount, held=held)
        self.records[id].told = self.available()
        return answer

    def settle(self, id: str, total: int, *, final: int = 1) -> Reply:
        """Settle."""
        hold, refusal = self._hold_of(id)
        if not hold:
            return refusal
        if hold.latest == ("settle", total, final):
            return _replayed(hold.latest_answer)
        if hold.state in ("settled", "released"):
            return ["hold_" + hold.state]
        if total < hold.charged:
            return ["lowered", hold.charged]
        more, is_late = total - hold.charged, hold.state == "expired"
        is_final = bool(final) or is_late
        charges = self._charge(hold, more)
        self._event("settle", id, more, total, is_late * 1 + is_final * 4, charges)
        released = sum(hold.held.values()) if is_final else 0
        if is_final:
            hold.state = "settled"
            self._free(hold)
        self._cover()
        state = "settled" if is_final else "held"
        hold.latest, hold.age = ("settle", total, final), 0
        hold.latest_answer = [state, 0, total, released, self.available(), int(is_late)]
        return hold.latest_answer

    def release(self, id: str) -> Reply:
        """Release."""
        hold, refusal = self._hold_of(id)
        if not hold:
            return refusal
        if hold.state == "released":
            return _replayed(hold.latest_answer)
        if hold.state != "held":
            return ["hold_" + hold.state]
        released = sum(hold.held.values())
        hold.state = "released"
        self._free(hold)
        self._cover()
        hold.latest, hold.age = (), 0
        hold.latest_answer = ["released", 0, released, self.available()]
        return hold.latest_answer

    def extend(self, id: str, amount: int, ttl_ms: int = 0) -> Reply:
        """Extend."""
        hold, refusal = self._hold_of(id)
        if not hold:
            return refusal
        if hold.state != "held":
            return ["hold_" + hold.state]
        if amount == hold.amount and not ttl_ms:
            return ["held", 1, amount, hold.told, ANY, 0, ""]
        amount = amount or hold.amount
        if amount < hold.amount:
            return ["lowered", hold.amount]
        if self.status in ("suspended", "closed"):
            return [self.status, ""]
        more = max(0, amount - hold.charged) - sum(hold.held.values())
        if more > 0 and more > self.available() + self.overdraft:
            return ["insufficient", self.available(), self.overdraft, more]
        add(hold.held, self._burn(more).items())
        hold.amount, hold.told = amount, self.available()
        return ["held", 0, amount, self.available(), ANY, 0, ""]

    def debit(self, id: str, amount: int) -> Reply:
        """Debit."""
        if self._is_more_due():
            return ["again"]
        request = ("debit", amount)
        if id in self.records:
            return self._first_answer(id, request)
        if self.status in ("suspended", "closed"):
            return [self.status, ""]
        if amount > self.available() + self.overdraft:
            return ["insufficient", self.available(), self.overdraft]
        charges = self._burn(amount)
        self._event("debit", id, amount, amount, 4, charges)
        answer = ["debited", 0, amount, self.available()]
        self.records[id] = Record(
            "debit", "debited", request, answer, charges=charges, charged=amount
        )
        return answer

    def refund(self, id: str, of: str, amount: int = 0) -> Reply:
        """Refund."""
        if self._is_more_due():
            return ["again"]
        if known := self.records.get(id):
            is_same = amount == known.amount or (amount == 0 and known.is_all)
            if known.request == ("refund", of) and is_same:
                return _replayed(known.answer)
            return ["conflict"]
        charge = self.records.get(of)
        if not charge or charge.kind == "refund":
            return ["hold_not_found"]
        if charge.state == "held":
            return ["hold_open"]
        left = sum(charge.charges.values())
        amount = amount or left
        if amount > left or not left:
            return ["refund_exceeds", left]
        back = _last_first(charge.charges, amount)
        negative = {grant_no: -part for grant_no, part in back.items()}
        self._event("refund", id, -amount, amount, 4, negative)
        self._give(back)
        self._cover()
        add(charge.charges, negative.items())
        charge.age = 0
        answer = ["refunded", 0, amount, self.available()]
        self.records[id] = Record(
            "refund", "refunded", ("refund", of), answer, amount, is_all=amount == left
        )
        return answer

    def expire(self) -> Reply:
        """End what is due."""
        return ["done", int(self._is_more_due()), ANY]

    # Refills ---------------------------------------------------------------------------------

    def grant(
        self,
        grant_no: int,
        amount: int,
        *,
        priority: int,
        category: str,
        expires_at_ms: int | None,
        ends_at_ms: int | None,
        refill_no: int,
    ) -> Reply:
        """Grant. `ends_at_ms` is `expires_at_ms` by the clock of the model."""
        if refusal := self._refill(refill_no):
            return refusal
        order = burn_order(priority, expires_at_ms, category, grant_no)
        self.grants[grant_no] = Grant(order, amount, ends_at_ms)
        self._end_due()
        self._cover()
        return ["applied"]

    def take(self, amount: int, grant_no: int = 0, *, refill_no: int) -> Reply:
        """Take."""
        if refusal := self._refill(refill_no):
            return refusal
        self._end_due()
        taken = {grant_no: self._take_of(grant_no, amount)}
        parts: Parts = {}
        add(parts, taken.items())
        add(parts, self._burn(amount - taken[grant_no]).items())
        self._event("take", f"refill:{refill_no}", amount, 0, 0, parts)
        return ["applied"]

    def set_status(self, status: str, overdraft: int, *, refill_no: int) -> Reply:
        """Set status and overdraft."""
        if refusal := self._refill(refill_no):
            return refusal
        self.status, self.overdraft = status, overdraft
        return ["applied"]

    def restore(self, parts: Parts, *, refill_no: int) -> Reply:
        """Undo a charge or refund that the ledger dropped."""
        if refusal := self._refill(refill_no):
            return refusal
        self._end_due()
        for grant_no, amount in parts.items():
            if amount > 0:
                self._give({grant_no: amount})
                continue
            missing = -amount - self._take_of(grant_no, -amount)
            if grant_no and missing:
                self._event("cover", "", 0, 0, 0, {grant_no: -missing, 0: missing})
            self.pool -= missing
        self._cover()
        return ["applied"]

    def pass_midnight(self) -> None:
        """Forget what ended before yesterday."""
        for record in self.records.values():
            record.age += record.state != "held"
        self.records = {id: record for id, record in self.records.items() if record.age < 2}

    # Credits ---------------------------------------------------------------------------------

    def _burn(self, amount: int) -> Parts:
        """Take from grants in burn order, and from the overdraft what they lack."""
        taken: Parts = {}
        for grant_no in sorted(self.grants, key=lambda number: self.grants[number].order):
            part = self._take_of(grant_no, amount)
            add(taken, [(grant_no, part)])
            amount -= part
        self.pool -= amount
        add(taken, [(0, amount)])
        return taken

    def _take_of(self, grant_no: int, amount: int) -> int:
        if grant_no not in self.grants:
            return 0
        part = min(amount, self.grants[grant_no].left)
        self.grants[grant_no].left -= part
        return part

    def _give(self, parts: Parts) -> None:
        """Give back to where it came from; what belongs to an expired grant expires."""
        for grant_no, amount in parts.items():
            if grant_no == 0:
                self.pool += amount
            elif grant_no in self.grants:
                self.grants[grant_no].left += amount
            else:
                self._event("expire", f"grant:{grant_no}", amount, 0, 0, {grant_no: amount})

    def _free(self, hold: Record) -> None:
        held, hold.held = hold.held, {}
        self._give(held)

    def _charge(self, hold: Record, more: int) -> Parts:
        """Charge what was held of grants; beyond that, as if the rest had never been held."""
        charges: Parts = {}
        for grant_no in [number for number in hold.held if number]:
            part = min(more, hold.held[grant_no])
            add(hold.held, [(grant_no, -part)])
            add(charges, [(grant_no, part)])
            more -= part
        freed = min(more, hold.held.get(0, 0))
        add(hold.held, [(0, -freed)])
        self.pool += freed
        add(charges, self._burn(more).items())
        add(hold.charges, charges.items())
        hold.charged += sum(charges.values())
        return charges

    def _cover(self) -> None:
        """Pay the overdraft that was charged, not what is only held of it, from grants."""
        held = sum(record.held.get(0, 0) for record in self.open_holds().values())
        debt = min(-self.pool - held, sum(self.left().values()))
        if debt > 0:
            paid = self._burn(debt)
            self.pool += debt
            self._event("cover", "", 0, 0, 0, paid | {0: -debt})

    # Time ------------------------------------------------------------------------------------

    def _is_more_due(self) -> bool:
        self._end_due()
        return bool(self._due())

    def _due(self) -> list[tuple[int, str]]:
        holds = [(record.ends_at_ms, f"h:{id}") for id, record in self.open_holds().items()]
        grants = [(grant.ends_at_ms, f"g:{number}") for number, grant in self.grants.items()]
        ends = [*holds, *((at_ms, name) for at_ms, name in grants if at_ms is not None)]
        return sorted(end for end in ends if end[0] <= self.clock_ms)

    def _end_due(self) -> None:
        """End what is due, the soonest first."""
        for _, name in self._due()[:EXPIRE_ITEMS]:
            if name.startswith("h:"):
                hold = self.records[name[2:]]
                hold.state, hold.age = "expired", 0
                self._free(hold)
            else:
                left = self.grants.pop(int(name[2:])).left
                if left:
                    number = int(name[2:])
                    self._event("expire", f"grant:{number}", left, 0, 0, {number: left})
        self._cover()

    # Words -----------------------------------------------------------------------------------

    def _event(
        self, operation: str, id: str, amount: int, total: int, flags: int, parts: Parts
    ) -> None:
        self.events.append((operation, id, amount, total, flags, dict(parts)))

    def _refill(self, refill_no: int) -> Reply | None:
        if refill_no <= self.refill_no:
            return ["replayed", self.refill_no]
        if refill_no > self.refill_no + 1:
            return ["gap", self.refill_no]
        self.refill_no = refill_no
        return None

    def _first_answer(self, id: str, request: tuple[Any, ...]) -> Reply:
        known = self.records[id]
        return _replayed(known.answer) if known.request == request else ["conflict"]

    def _hold_of(self, id: str) -> tuple[Record | None, Reply]:
        if self._is_more_due():
            return None, ["again"]
        known = self.records.get(id)
        if not known:
            return None, ["hold_not_found"]
        return (known, []) if known.kind == "hold" else (None, ["conflict"])


def _last_first(charges: Parts, amount: int) -> Parts:
    """Return which parts of a charge come back: what was burnt last comes back first."""
    back: Parts = {}
    for grant_no in reversed(charges):
        part = min(amount, charges[grant_no])
        add(back, [(grant_no, part)])
        amount -= part
    return back


def _replayed(answer: Reply) -> Reply:
    return [answer[0], 1, *answer[2:]]
