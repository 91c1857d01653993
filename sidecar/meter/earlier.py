"""What the journal knows of a request's id and Redis has forgotten, because of a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sidecar.meter.acknowledge import Answer, now_ms
from sidecar.meter.again import answer_again
from sidecar.meter.entries import Entry, Hold, key_of
from sidecar.meter.lease import Lease
from sidecar.meter.operations import Plan
from sidecar.meter.refusals import REFUSALS
from sidecar.meter.shelf import Shelf
from sidecar.meter.store import Store

_VERBS: Final = frozenset({"hold", "settle", "release", "extend", "debit", "refund"})


@dataclass(frozen=True, slots=True)
class Found:
    """The records of one id: what came of it, and the hold while it runs."""

    survivor: Entry | None
    hold: Entry | None
    store: Store
    shelf: Shelf

    @property
    def lost(self) -> bytes:
        """The hold for a settle, in the form that the script takes; or nothing."""
        return b"" if self.hold is None or self.hold.hold is None else self.hold.hold.lost()

    async def answer(self, verb: str, plan: Plan) -> Answer | None:
        """Return the answer that needs no decision, or None. Raises `Refusal`."""
        for entry in (self.survivor, self.hold):
            answer = None if entry is None else answer_again(verb, plan, entry)
            if answer is not None:
                return answer
        if verb == "release" and self.hold is not None and self.hold.hold is not None:
            return await self._released(self.hold, self.hold.hold, plan)
        return None

    async def _released(self, entry: Entry, hold: Hold, plan: Plan) -> Answer | None:
        """End a hold of which nothing is set aside any more."""
        if now_ms() >= hold.expires_at_ms:
            raise REFUSALS[b"hold_expired"](plan, [b"hold_expired"], None)
        decision = await self.store.run("release", entry.account, (entry.id,))
        if decision.status != b"hold_not_found":
            return None  # the hold is there after all, and its release is repeated
        balance = await self.store.run("balance", entry.account, (0,))
        self.shelf.end_hold(entry.key)
        return {
            "id": entry.id,
            "status": "released",
            "released": max(0, hold.amount - hold.charged),
            "available": balance.reply[2],
            "replayed": False,
        }


class Earlier:
    """Looks ids up. Mostly there is nothing to find, and that costs next to nothing."""

    def __init__(self, store: Store, lease: Lease, shelf: Shelf) -> None:
        self._store = store
        self._lease = lease
        self._shelf = shelf

    def find(self, verb: str, request: Any) -> Found | None:
        """Return what is known of a request's id from before its shard's present epoch, or None.

        Raises `StoreUnavailable` when the shard is not open, and `JournalError`.
        """
        if verb not in _VERBS:
            return None
        key = key_of(request.account, request.id)
        kept = self._shelf.holds.get(key)
        if kept is not None and kept.epoch == self._lease.place(request.account).epoch:
            kept = None
        survivor = self._shelf.survivors.get(key)
        if kept is None and survivor is None:
            return None
        return Found(
            None if survivor is None else self._shelf.entry(survivor.number),
            None if kept is None else self._shelf.entry(kept.number),
            self._store,
            self._shelf,
        )
