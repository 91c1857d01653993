"""Before an answer: what was decided goes into the journal, and must still count.

Acknowledged is what a script did, and the journal has, and Redis was not lost meanwhile. Whatever
fails on the way is a 503: the retry of the same id finds out what was done.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import msgspec

from sidecar.errors import JournalError, StoreUnavailable
from sidecar.meter.entries import Entry, Hold, allocations_of, encode, key_of
from sidecar.meter.journal import Journal
from sidecar.meter.lease import Lease
from sidecar.meter.operations import Plan
from sidecar.meter.requests import Request
from sidecar.meter.room import Room
from sidecar.meter.shelf import Shelf
from sidecar.meter.store import Decision, Store

log: Final = logging.getLogger(__name__)

_FINGERPRINT: Final = 1
_PRICE_VERSION: Final = 5
_CONTEXT: Final = 6
NEW_CALLS: Final = frozenset({"hold", "debit", "extend"})
_CHARGES: Final = frozenset({"settle", "debit", "refund"})

Answer = dict[str, Any]


def now_ms() -> int:
    """Return this machine's clock in Unix milliseconds."""
    return int(time.time() * 1000)


class Acknowledger:
    """Lets answers out."""

    def __init__(
        self, journal: Journal, shelf: Shelf, lease: Lease, store: Store, room: Room
    ) -> None:
        self._journal = journal
        self._shelf = shelf
        self._lease = lease
        self._store = store
        self._room = room

    def require_room(self, verb: str) -> None:
        """Raise `StoreUnavailable` when neither journal nor Redis should begin anything new.

        What ends or gives back is let through: it is what makes room.
        """
        if verb not in NEW_CALLS:
            return
        if self._journal.problem is not None:
            raise StoreUnavailable(self._journal.problem)
        if self._room.refuses(self._lease.memory_ratio):
            raise StoreUnavailable(f"Redis has used {self._lease.memory_ratio:.0%} of its memory")

    def require(self, decision: Decision) -> None:
        """Raise `StoreUnavailable` when what was decided may be lost by now."""
        self._lease.require(decision.place)

    async def acknowledge(
        self, verb: str, request: Request, plan: Plan, decision: Decision, answer: Answer
    ) -> None:
        """Return when an answer may go out. Raises `StoreUnavailable` when it may not."""
        entries: list[Entry] = []
        if verb in _CHARGES:
            print_ = str(plan.args[_FINGERPRINT])
            entries = await self._charge(
                verb, request.account, answer["id"], print_, answer, decision
            )
        elif verb in ("hold", "extend"):
            entries = self._hold(verb, request, plan, decision, answer)
        await self._let_out(entries, decision, is_urgent=verb not in NEW_CALLS)
        if verb == "release":
            self._shelf.end_hold(key_of(request.account, answer["id"]))

    async def made_good(self, number: int, entry: Entry, decision: Decision) -> None:
        """Write that a call of an outage was run, and the event that it made.

        Raises `StoreUnavailable`: then it is to be run again.
        """
        entries = await self._charge(
            entry.operation, entry.account, entry.id, entry.fingerprint, entry.answer, decision
        )
        for made in entries:
            made.done = number  # one record, so never the one without the other
        mark = Entry("done", entry.account, entry.id, "", {}, now_ms(), done=number)
        await self._let_out([*entries, mark], decision, is_urgent=True)

    async def _let_out(self, entries: list[Entry], decision: Decision, *, is_urgent: bool) -> None:
        self._lease.require(decision.place)  # else what is written now comes after the mark
        numbers = await self.write(entries, is_urgent=is_urgent)
        try:
            self._lease.require(decision.place)
        except StoreUnavailable:
            for number, entry in zip(numbers, entries, strict=True):
                self._journal.forget(number)
                await self._void(number, entry)
            raise
        for number, entry in zip(numbers, entries, strict=True):
            self._shelf.put(number, entry)

    async def _void(self, number: int, entry: Entry) -> None:
        """Write that a record was never acknowledged: what is forgotten may come back on disk.

        Its journal was handed in without it, and its credits may be spent again by now.
        """
        void = Entry("void", entry.account, entry.id, "", {}, now_ms(), done=number)
        try:
            (mark,) = await self.write([void], is_urgent=True)
        except StoreUnavailable as error:
            log.error("a record could not be voided", extra={"error": str(error)})
            return
        self._shelf.put(mark, void)

    async def write(self, entries: list[Entry], *, is_urgent: bool) -> list[int]:
        """Write records at once and return their numbers. Raises `StoreUnavailable`."""
        try:
            writes = [self._journal.append(encode(entry), is_urgent=is_urgent) for entry in entries]
            return [await write for write in writes]
        except JournalError as error:
            raise StoreUnavailable(str(error)) from error

    async def _charge(
        self,
        verb: str,
        account: str,
        id: str,
        print_: str,
        answer: Answer,
        decision: Decision,
    ) -> list[Entry]:
        place, event = decision.place, decision.event
        is_repeat = not event and bool(decision.stream_id)
        if is_repeat and not self._shelf.is_confirmed(place.shard, place.epoch, decision.stream_id):
            # Another sidecar may have run it, and may be no more.
            event = await self._store.event(place, decision.stream_id)
            if not event:
                await self._require_confirmed(decision)
        if not event:
            return []
        entry = Entry(
            verb, account, id, print_, answer, now_ms(),
            place.shard, place.epoch, decision.stream_id, event,
        )  # fmt: skip
        return [entry, *self._partly_settled(entry)]

    async def _require_confirmed(self, decision: Decision) -> None:
        """Raise `StoreUnavailable` unless the ledger has an event that is in the stream no more."""
        place = decision.place
        await self._lease.look_again()
        if not self._shelf.is_confirmed(place.shard, place.epoch, decision.stream_id):
            self._lease.suspect()
            raise StoreUnavailable("neither the stream nor the ledger has the event")

    def _partly_settled(self, entry: Entry) -> list[Entry]:
        """Return the hold as it is after a settle that was not its last."""
        if entry.operation != "settle" or entry.answer["status"] != "held":
            return []
        known = self._known_hold(entry.key)
        if known is None or known.hold is None or "degraded" in entry.answer:
            return []
        hold = msgspec.structs.replace(
            known.hold,
            charged=entry.answer["charged"],
            charges=known.hold.charges + allocations_of(entry.event),
            last=entry.fingerprint,
            last_answer=entry.answer,
        )
        return [_of_hold(known, hold, entry.epoch)]

    def _hold(
        self, verb: str, request: Request, plan: Plan, decision: Decision, answer: Answer
    ) -> list[Entry]:
        place = decision.place
        known = self._known_hold(key_of(request.account, answer["id"]))
        if verb == "hold":
            if known is not None and known.epoch == place.epoch:
                return []
            version = decision.reply[6].decode()
            hold = granted(plan, answer, version, is_granted_here=False)
            return [
                Entry(
                    "hold", request.account, answer["id"], hold.fingerprint, answer, now_ms(),
                    place.shard, place.epoch, hold=hold,
                )
            ]  # fmt: skip
        if known is None or known.hold is None or answer["replayed"]:
            return []
        return [_of_hold(known, extended(known.hold, answer), place.epoch)]

    def _known_hold(self, key: str) -> Entry | None:
        kept = self._shelf.holds.get(key)
        try:
            return None if kept is None else self._shelf.entry(kept.number)
        except JournalError as error:
            raise StoreUnavailable(str(error)) from error


def granted(plan: Plan, answer: Answer, price_version: str, *, is_granted_here: bool) -> Hold:
    """Return what is to be known of a hold that was granted as the answer says."""
    return Hold(
        fingerprint=str(plan.args[_FINGERPRINT]),
        amount=answer["amount"],
        available=answer["available"],
        expires_at_ms=answer["expires_at_ms"],
        partial=int("partial" in answer),
        price_version=price_version,
        context=_text(plan.args[_CONTEXT]),
        created_at_ms=now_ms(),
        is_granted_here=is_granted_here,
    )


def extended(hold: Hold, answer: Answer) -> Hold:
    """Return a hold as it is after an extend."""
    return msgspec.structs.replace(
        hold,
        amount=answer["amount"],
        available=answer["available"],
        expires_at_ms=answer["expires_at_ms"],
    )


def _of_hold(known: Entry, hold: Hold, epoch: int) -> Entry:
    return msgspec.structs.replace(known, hold=hold, epoch=epoch, at_ms=now_ms())


def _text(argument: str | int | bytes) -> str:
    return argument.decode() if isinstance(argument, bytes) else str(argument)
