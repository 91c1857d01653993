"""The credits of the reference model: where they are, how they burn, come back and end.

With `model.py` the one place beside `lua/` that adds and subtracts credits (in microcredits).
Sums are computed from what there is rather than kept, and nothing here is fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

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
class Credits:
    """The credits of one account. Set `clock_ms` before each call."""

    overdraft: int = 0
    status: str = "active"
    mark: int = 0
    pool: int = 0
    refill_no: int = 1
    clock_ms: int = 0
    grants: dict[int, Grant] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    events: list[Charge] = field(default_factory=list)
    rings: int = 0
    told: int = 0
    """How bad it was when it rang last: 1 below the mark, 2 nothing left; 0 above since."""

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

    def _ring(self, before: int, *, is_refill: bool) -> None:
        """Ring if there is less than before, and it is worse than what was told."""
        now = self.available()
        if now == before:
            return
        badness = (now < self.mark or now <= 0) + (now <= 0)
        is_first_refill = is_refill and before <= 0
        if badness == 0:
            self.told = 0
        elif badness > self.told and now < before and not is_first_refill:
            self.told = badness
            self.rings += 1

    def _event(
        self, operation: str, id: str, amount: int, total: int, flags: int, parts: Parts
    ) -> None:
        self.events.append((operation, id, amount, total, flags, dict(parts)))
