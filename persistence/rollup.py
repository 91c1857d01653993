"""What a batch of events changes: sums by generation, grant and ledger account."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.events import Event
from persistence.transfers import Transfer, TransferKind
from sidecar.domain import Operation

GenerationKey = tuple[str, int]
"""Account and generation."""


@dataclass(slots=True)
class Numbers:
    """The ledger accounts of a generation."""

    available: int
    lent: int
    spent: int
    expired: int
    suspense: int


@dataclass(slots=True)
class Sums:
    """What the events of one generation sum to. Grants: number -> [used, expired, returned]."""

    seq: int = 0
    usage: int = 0
    refund: int = 0
    expired: int = 0
    returned: int = 0
    overage: int = 0
    suspended: int = 0
    dropped: int = 0
    residue: int = 0
    grants: dict[int, list[int]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Count an event that became a row of the ledger."""
        operation, amount = event.operation, event.amount
        column = 0
        if operation is Operation.SETTLE or operation is Operation.DEBIT:
            self.usage += amount
        elif operation is Operation.REFUND:
            self.refund -= amount
        elif operation is Operation.EXPIRE:
            self.expired += amount
            column = 1
        elif operation is Operation.TAKE:
            self.returned += amount
            column = 2
        self._allocate(event.allocations, column)
        self.pass_by(event)

    def pass_by(self, event: Event) -> None:
        """Count that the event's place in its generation is taken."""
        if event.seq > self.seq:
            self.seq = event.seq

    def _allocate(self, flat: list[int], column: int) -> None:
        grants = self.grants
        for place in range(0, len(flat), 2):
            number, amount = flat[place], flat[place + 1]
            if number == 0:
                self.overage += amount
                continue
            counters = grants.get(number)
            if counters is None:
                counters = grants[number] = [0, 0, 0]
            counters[column] += amount

    def transfers(self, account: str, numbers: Numbers, reference: str) -> list[Transfer]:
        """Return one transfer for each kind of movement that there was."""
        moves = (
            (numbers.lent, numbers.spent, self.usage, TransferKind.USAGE),
            (numbers.spent, numbers.lent, self.refund, TransferKind.REFUND),
            (numbers.lent, numbers.expired, self.expired, TransferKind.EXPIRE),
            (numbers.lent, numbers.available, self.returned, TransferKind.RETURN),
            (numbers.lent, numbers.suspense, self.suspended, TransferKind.SUSPENSE),
            # What a refund would have given back cannot be suspended below nothing.
            (numbers.suspense, numbers.lent, -self.suspended, TransferKind.SUSPENSE),
            # What came back of a closed generation, and goes to it again for what comes late.
            (numbers.lent, numbers.available, self.residue, TransferKind.RESIDUE),
            (numbers.available, numbers.lent, -self.residue, TransferKind.RESIDUE),
        )
        return [
            Transfer(debit, credit, amount, kind, account, reference)
            for debit, credit, amount, kind in moves
            if amount > 0
        ]


def roll_up(events: Iterable[Event]) -> dict[GenerationKey, Sums]:
    """Return the sums of events, by account and generation."""
    sums: dict[GenerationKey, Sums] = {}
    for event in events:
        key = (event.account, event.generation)
        entry = sums.get(key)
        if entry is None:
            entry = sums[key] = Sums()
        entry.add(event)
    return sums


def apply_sums(connection: Connection, sums: dict[GenerationKey, Sums]) -> None:
    """Add the sums to the generations, whose rows the caller has locked, and to the grants."""
    if not sums:
        return
    entries = sorted(sums.items())
    connection.execute(
        _GENERATIONS,
        {
            "accounts": [account for (account, _), _ in entries],
            "gens": [gen for (_, gen), _ in entries],
            "seqs": [s.seq for _, s in entries],
            "spent": [s.usage - s.refund for _, s in entries],
            "expired": [s.expired for _, s in entries],
            "returned": [s.returned for _, s in entries],
            "overage": [s.overage for _, s in entries],
            "suspended": [s.suspended for _, s in entries],
            "dropped": [s.dropped for _, s in entries],
            "residues": [s.residue for _, s in entries],
        },
    )
    _apply_grants(connection, sums)


def _apply_grants(connection: Connection, sums: dict[GenerationKey, Sums]) -> None:
    changes: dict[tuple[int, str], list[int]] = {}
    for (account, _), entry in sums.items():
        for number, counters in entry.grants.items():
            known = changes.setdefault((number, account), [0, 0, 0])
            for place, change in enumerate(counters):
                known[place] += change
    if not changes:
        return
    entries = sorted(changes.items())
    values: dict[str, Any] = {
        "numbers": [number for (number, _), _ in entries],
        "accounts": [account for (_, account), _ in entries],
    }
    for place, name in enumerate(("used", "expired", "returned")):
        values[name] = [counters[place] for _, counters in entries]
    touched = connection.execute(_GRANTS, values).rowcount
    if touched != len(entries):
        raise UnknownGrant("an event names a grant that its account does not have")


class UnknownGrant(ValueError):
    """Raised when events charge a grant that does not exist: the event cannot be posted."""


def _array(name: str, kind: Any) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=ARRAY(kind))


_GENERATIONS: Final = sa.text(
    """
    UPDATE generations AS g SET
        seq = greatest(g.seq, v.seq), spent = g.spent + v.spent,
        expired = g.expired + v.expired, returned = g.returned + v.returned,
        overage = g.overage + v.overage, suspended = g.suspended + v.suspended,
        dropped = g.dropped + v.dropped, residue = g.residue + v.residue
    FROM unnest(:accounts, :gens, :seqs, :spent, :expired, :returned, :overage, :suspended,
        :dropped, :residues)
        AS v (account, gen, seq, spent, expired, returned, overage, suspended, dropped, residue)
    WHERE g.account = v.account AND g.gen = v.gen
    """
).bindparams(
    _array("accounts", sa.Text),
    _array("gens", sa.Integer),
    *(
        _array(name, sa.BigInteger)
        for name in (
            "seqs",
            "spent",
            "expired",
            "returned",
            "overage",
            "suspended",
            "dropped",
            "residues",
        )
    ),
)

_GRANTS: Final = sa.text(
    """
    UPDATE grants AS g SET used = g.used + v.used, expired = g.expired + v.expired,
        returned = g.returned + v.returned
    FROM unnest(:numbers, :accounts, :used, :expired, :returned)
        AS v (grant_no, account, used, expired, returned)
    WHERE g.grant_no = v.grant_no AND g.account = v.account
    """
).bindparams(
    _array("accounts", sa.Text),
    *(_array(name, sa.BigInteger) for name in ("numbers", "used", "expired", "returned")),
)
