"""Histories that never were, for the tests of the checks."""

from __future__ import annotations

import itertools
from typing import Any, Self

from tests.faults.history import Attempt, Call
from tests.faults.truth import Event, Refill, Truth

ACCOUNT = "acme"
_ERROR = {"error": {"code": "store_unavailable"}}


class Made:
    """Calls and the ledger, entered by hand. Time goes on by one second with each attempt."""

    def __init__(self, granted: int = 1_000) -> None:
        self.calls: list[Call] = []
        self.truth = Truth(
            refills=[Refill(ACCOUNT, 1, 1, "open", 0), Refill(ACCOUNT, 1, 2, "grant", granted)],
            granted={ACCOUNT: granted},
            balances={ACCOUNT: granted},
            overdrafts={ACCOUNT: 0},
        )
        self.generation = 1
        self._seqs: dict[int, int] = {}
        self._clock = itertools.count(1)

    def call(self, operation: str, id: str, amount: int | None = None, **fields: Any) -> Call:
        """Enter a call without any attempt."""
        body: dict[str, Any] = {"account": ACCOUNT, "id": id, **fields}
        if amount is not None:
            body["amount"] = amount
        made = Call(len(self.calls), ACCOUNT, operation, id, body, 0, [])
        self.calls.append(made)
        return made

    def attempt(
        self, call: Call, http: int = 200, *, sidecar: int = 0, lasts: float = 0.5, **fields: Any
    ) -> Attempt:
        """Enter an attempt; of one that was acknowledged, `fields` are the answer."""
        sent = float(next(self._clock))
        answer = {"replayed": False, **fields} if http == 200 else fields or _ERROR
        made = Attempt(sidecar, sent, sent + lasts, http, answer)
        call.attempts.append(made)
        return made

    def event(self, call: Call, amount: int | None = None, **changes: Any) -> Event:
        """Enter the event of a charge into the ledger, after those that are there."""
        change = call.amount if amount is None else amount
        if call.operation == "refund" and amount is None:
            change = -call.amount
        seq = changes.pop("seq", self._seqs.get(self.generation, 0) + 1)
        self._seqs[self.generation] = seq
        fields = {
            "account": ACCOUNT,
            "generation": self.generation,
            "seq": seq,
            "operation": call.operation,
            "id": call.id,
            "amount": change,
            "total": call.amount,
            "final": bool(call.body.get("final", True)),
            "late": False,
            "degraded": False,
        } | changes
        made = Event(**fields)
        self.truth.events.append(made)
        self.truth.balances[ACCOUNT] -= change
        return made

    def lose(self, lent: int) -> Self:
        """Begin the next generation, which is lent this much."""
        self.generation += 1
        self.truth.refills += [
            Refill(ACCOUNT, self.generation, 1, "open", 0),
            Refill(ACCOUNT, self.generation, 2, "grant", lent),
        ]
        return self

    # Whole calls, as they should be ----------------------------------------------------------

    def hold(self, id: str, amount: int, available: int) -> Call:
        """Enter a hold that was granted."""
        made = self.call("hold", id, amount)
        self.attempt(made, amount=amount, available=available)
        return made

    def debit(self, id: str, amount: int, available: int) -> Call:
        """Enter a debit that was made and is in the ledger."""
        made = self.call("debit", id, amount)
        self.attempt(made, charged=amount, available=available)
        self.event(made)
        return made

    def settle(self, id: str, total: int, available: int, change: int | None = None) -> Call:
        """Enter a final settle that was made and is in the ledger."""
        made = self.call("settle", id, total, final=True)
        self.attempt(made, charged=total, available=available)
        self.event(made, change)
        return made

    def refund(self, id: str, of: str, amount: int, available: int) -> Call:
        """Enter a refund that was made and is in the ledger."""
        made = self.call("refund", id, amount, of=of)
        self.attempt(made, refunded=amount, available=available)
        self.event(made)
        return made
