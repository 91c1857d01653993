"""What the scripts should do, said as plainly as possible: one account as a Python object.

It answers as the scripts do; `credits.py` says where the credits are meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import ANY

from sidecar.domain import burn_order
from tests.lua.support import Reply
from tests.properties.credits import Credits, Grant, Parts, Record, add


class Model(Credits):
    """One account, with the calls of the scripts. Set `clock_ms` before each call."""

    def do(self, verb: str, *args: Any, **options: Any) -> Reply:
        """Make a call of that name, and ring if it leaves too little."""
        available, refill_no = self.available(), self.refill_no
        reply: Reply = getattr(self, verb)(*args, **options)
        self._ring(available, is_refill=self.refill_no != refill_no)
        return reply

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
        taken = {grant_no: self._take_of(grant_no, amount)}
        parts: Parts = {}
        add(parts, taken.items())
        add(parts, self._burn(amount - taken[grant_no]).items())
        self._event("take", f"refill:{refill_no}", amount, 0, 0, parts)
        return ["applied"]

    def roll(
        self, keep: int, grants: Sequence[tuple[int, str, int | None]], *, refill_no: int
    ) -> Reply:
        """Roll grants: number, order, and when they end by the clock of the model."""
        if refusal := self._refill(refill_no):
            return refusal
        lacking = keep
        for grant_no, order, ends_at_ms in grants:
            if grant_no not in self.grants:
                continue
            left = self.grants.pop(grant_no).left
            kept = min(left, lacking)
            lacking -= kept
            if keep > 0:
                self.grants[grant_no] = Grant(order, kept, ends_at_ms)
            if ended := left - kept:
                self._event("expire", f"grant:{grant_no}", ended, 0, 0, {grant_no: ended})
        return ["applied"]

    def set_status(
        self, status: str, overdraft: int, mark: int | None = None, *, refill_no: int
    ) -> Reply:
        """Set status, overdraft and mark, which stays without one."""
        if refusal := self._refill(refill_no):
            return refusal
        self.status, self.overdraft = status, overdraft
        if mark not in (None, self.mark):
            self.mark, self.told = mark or 0, 0
        return ["applied"]

    def restore(self, parts: Parts, *, refill_no: int) -> Reply:
        """Undo a charge or refund that the ledger dropped."""
        if refusal := self._refill(refill_no):
            return refusal
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

    # Words -----------------------------------------------------------------------------------

    def _refill(self, refill_no: int) -> Reply | None:
        if refill_no <= self.refill_no:
            return ["replayed", self.refill_no]
        if refill_no > self.refill_no + 1:
            return ["gap", self.refill_no]
        if self._is_more_due():
            return ["again"]
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
