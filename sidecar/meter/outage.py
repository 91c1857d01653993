"""While Redis is away: what is granted all the same, out of what the journal and memory know.

An account with an `outage_allowance` is granted holds and debits up to that, by each sidecar on
its own; a hold counts with its amount, then with its charge. Settles and releases of holds that
this sidecar acknowledged are always accepted. All of it is in the journal before the answer;
`afterwards` makes it good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from sidecar.errors import JournalError, StoreUnavailable
from sidecar.meter import requests
from sidecar.meter.acknowledge import Acknowledger, Answer, extended, granted, now_ms
from sidecar.meter.again import answer_again
from sidecar.meter.debts import Debt, Debts
from sidecar.meter.entries import Argument, Entry, Hold, key_of
from sidecar.meter.operations import Operation, Plan
from sidecar.meter.refusals import REFUSALS
from sidecar.meter.shelf import Shelf
from sidecar.metrics import MeterMetrics
from sidecar.pricing.book import PriceBook

_FINGERPRINT: Final = 1
_FINAL: Final = 3
_SETTLE_VERSION: Final = 4
_HOLD_VERSION: Final = 5
_SETTLE_ARGUMENTS: Final = 6


class Outage:
    """Grants and accepts without Redis."""

    def __init__(
        self,
        shelf: Shelf,
        acknowledger: Acknowledger,
        book: PriceBook,
        debts: Debts,
        metrics: MeterMetrics,
    ) -> None:
        self._shelf = shelf
        self._acknowledger = acknowledger
        self._book = book
        self._debts = debts
        self._metrics = metrics
        self._verbs: dict[str, Callable[[Any, Plan, Debt], Awaitable[Answer | None]]] = {
            "hold": self._hold,
            "settle": self._settle,
            "release": self._release,
            "extend": self._extend,
            "debit": self._debit,
            "check": self._check,
        }

    async def decide(
        self, operation: Operation[Any], request: requests.Request, reason: StoreUnavailable
    ) -> Answer:
        """Return the answer that can be given without Redis.

        Raises `reason` when there is none, `StoreUnavailable` when the journal takes no more, and
        `Refusal`.
        """
        verb = self._verbs.get(operation.name)
        if verb is None or not self._may_answer(request):
            raise reason
        with self._debts.of(request.account) as debt:
            try:
                async with debt.lock:
                    answer = await verb(request, self._plan(operation, request), debt)
            except JournalError as error:
                raise StoreUnavailable(str(error)) from error
        if answer is None:
            raise reason
        self._metrics.degraded.labels(operation.name).inc()
        return answer | {"degraded": True}

    def _may_answer(self, request: requests.Request) -> bool:
        """Tell whether anything is known of the account or the id: mostly there is not."""
        if self._debts.allowance(request.account):
            return True
        key = key_of(request.account, getattr(request, "id", ""))
        return key in self._shelf.holds or key in self._shelf.survivors

    def _plan(self, operation: Operation[Any], request: requests.Request) -> Plan:
        plan = operation.plan(request, self._book, "")
        known = self._hold_of(request) if operation.name == "settle" else None
        if known is not None and plan.args[_SETTLE_VERSION] and known.price_version:
            # The hold was priced by another version of the book: that one prices its settle too.
            plan = operation.plan(request, self._book, known.price_version)
        return plan

    def _hold_of(self, request: Any) -> Hold | None:
        entry = self._shelf.hold(request.account, request.id)
        return None if entry is None else entry.hold

    def _again(self, verb: str, request: Any, plan: Plan) -> Answer | None:
        """Return the first answer to a repeat. Raises `Refusal`."""
        for entry in (
            self._shelf.survivor(request.account, request.id),
            self._shelf.hold(request.account, request.id),
        ):
            answer = None if entry is None else answer_again(verb, plan, entry)
            if answer is not None:
                return answer
        return None

    # The verbs -------------------------------------------------------------------------------

    async def _hold(self, request: requests.HoldRequest, plan: Plan, debt: Debt) -> Answer | None:
        again = self._again("hold", request, plan)
        if again is not None:
            return again
        left = debt.left()
        amount = min(plan.amount, left) if request.partial else plan.amount
        if amount > left or left <= 0:
            return None
        self._acknowledger.require_room("hold")
        answer = {
            "id": request.id,
            "status": "held",
            "amount": amount,
            "available": left - amount,
            "expires_at_ms": now_ms() + (request.ttl_ms or requests.TTL_DEFAULT_MS),
            "replayed": False,
        }
        if amount < plan.amount:
            answer |= {"partial": True, **plan.affordable(amount)}
        hold = granted(plan, answer, str(plan.args[_HOLD_VERSION]), is_granted_here=True)
        entry = self._entry("hold", request, plan, answer, hold=hold)
        (number,) = await self._acknowledger.write([entry], is_urgent=False)
        self._shelf.put(number, entry)
        debt.holds[entry.key] = amount
        return answer

    async def _settle(
        self, request: requests.SettleRequest, plan: Plan, debt: Debt
    ) -> Answer | None:
        again = self._again("settle", request, plan)
        known = self._shelf.hold(request.account, request.id)
        if again is not None or known is None or known.hold is None:
            return again
        hold = known.hold
        if plan.amount < hold.charged:
            raise REFUSALS[b"lowered"](plan, [b"lowered", hold.charged], None)
        late = now_ms() >= hold.expires_at_ms
        is_final = late or bool(plan.args[_FINAL])
        answer = {
            "id": request.id,
            "status": "settled" if is_final else "held",
            "charged": plan.amount,
            "released": max(0, hold.amount - plan.amount) if is_final and not late else 0,
            "available": debt.left(),
            "late": late,
            "replayed": False,
        }
        arguments = [*plan.args[:_SETTLE_ARGUMENTS], hold.lost(), 1]
        entry = self._entry("settle", request, plan, answer, arguments=arguments)
        entries = [entry] if is_final else [entry, _partly_settled(known, hold, entry)]
        await self._owe(entries, debt, plan.amount - hold.charged if hold.is_granted_here else 0)
        if entry.key in debt.holds:
            debt.holds[entry.key] = 0 if is_final else max(0, hold.amount - plan.amount)
        return answer

    async def _release(
        self, request: requests.ReleaseRequest, plan: Plan, debt: Debt
    ) -> Answer | None:
        again = self._again("release", request, plan)
        known = self._shelf.hold(request.account, request.id)
        if again is not None or known is None or known.hold is None:
            return again
        if now_ms() >= known.hold.expires_at_ms:
            raise REFUSALS[b"hold_expired"](plan, [b"hold_expired"], None)
        answer = {
            "id": request.id,
            "status": "released",
            "released": max(0, known.hold.amount - known.hold.charged),
            "available": debt.left(),
            "replayed": False,
        }
        entry = self._entry("release", request, plan, answer, arguments=list(plan.args))
        await self._owe([entry], debt, 0)
        self._shelf.end_hold(entry.key)
        return answer

    async def _extend(
        self, request: requests.ExtendRequest, plan: Plan, debt: Debt
    ) -> Answer | None:
        self._again("extend", request, plan)
        known = self._shelf.hold(request.account, request.id)
        if known is None or known.hold is None:
            return None
        hold = known.hold
        if now_ms() >= hold.expires_at_ms:
            raise REFUSALS[b"hold_expired"](plan, [b"hold_expired"], None)
        amount = request.amount or hold.amount
        if amount < hold.amount:
            raise REFUSALS[b"lowered"](plan, [b"lowered", hold.amount], None)
        more, left = amount - hold.amount, debt.left()
        if more > max(0, left):
            return None
        self._acknowledger.require_room("extend")
        expires_at_ms = now_ms() + request.ttl_ms if request.ttl_ms else hold.expires_at_ms
        answer = {
            "id": request.id,
            "status": "held",
            "amount": amount,
            "available": left - more,
            "expires_at_ms": expires_at_ms,
            "replayed": not more and not request.ttl_ms,
        }
        entry = msgspec.structs.replace(known, hold=extended(hold, answer), at_ms=now_ms())
        (number,) = await self._acknowledger.write([entry], is_urgent=False)
        self._shelf.put(number, entry)
        debt.holds[entry.key] = debt.holds.get(entry.key, 0) + more
        return answer

    async def _debit(self, request: requests.DebitRequest, plan: Plan, debt: Debt) -> Answer | None:
        again = self._again("debit", request, plan)
        left = debt.left()
        if again is not None or plan.amount > left or left <= 0:
            return again
        self._acknowledger.require_room("debit")
        answer = {
            "id": request.id,
            "status": "debited",
            "charged": plan.amount,
            "available": left - plan.amount,
            "replayed": False,
        }
        entry = self._entry("debit", request, plan, answer, arguments=[*plan.args, 1])
        await self._owe([entry], debt, plan.amount)
        return answer

    async def _check(self, request: requests.CheckRequest, plan: Plan, debt: Debt) -> Answer | None:
        if not self._debts.allowance(request.account):
            return None
        left = debt.left()
        answer: Answer = {"allowed": plan.amount <= left, "amount": plan.amount, "available": left}
        if plan.amount > left:
            answer |= {"reason": "insufficient_credits", **plan.affordable(left)}
        return answer

    # What is owed ----------------------------------------------------------------------------

    async def _owe(self, entries: list[Entry], debt: Debt, charged: int) -> None:
        """Write a call that is to be run later, and what goes with it."""
        is_urgent = entries[0].operation != "debit"
        numbers = await self._acknowledger.write(entries, is_urgent=is_urgent)
        for number, entry in zip(numbers, entries, strict=True):
            self._shelf.put(number, entry)
        debt.pending.append((numbers[0], charged))
        debt.charged += charged
        self._shelf.put_survivor(numbers[0], entries[0])

    def _entry(
        self,
        verb: str,
        request: Any,
        plan: Plan,
        answer: Answer,
        *,
        hold: Hold | None = None,
        arguments: list[Argument] | None = None,
    ) -> Entry:
        fingerprint = "" if verb == "release" else str(plan.args[_FINGERPRINT])
        return Entry(
            verb, request.account, request.id, fingerprint, answer | {"degraded": True}, now_ms(),
            hold=hold, arguments=arguments,
        )  # fmt: skip


def _partly_settled(known: Entry, hold: Hold, settle: Entry) -> Entry:
    """Return the hold after a settle that was not its last. Where it was charged is not known."""
    charged = settle.answer["charged"]
    return msgspec.structs.replace(
        known,
        at_ms=settle.at_ms,
        hold=msgspec.structs.replace(
            hold,
            charged=charged,
            charges=[*hold.charges, 0, charged - hold.charged],
            last=settle.fingerprint,
            last_answer=settle.answer,
        ),
    )
