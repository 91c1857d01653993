"""What this sidecar acknowledged, where in the journal it is, and for how long it is needed.

A record waits for the ledger to confirm its event. Beside that are kept

    holds       until they are settled or released, or a day after their expiry
    survivors   what older epochs left: a repeat is answered from it, since Redis has forgotten it
    marks       that something accepted while Redis was away has been carried out
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.meter.confirmations import Confirmations, floor_of, place_of
from sidecar.meter.entries import Entry, decode, key_of
from sidecar.meter.journal import Journal

_DAY_MS: Final = 86_400_000
_MARKS_LIVE_MS: Final = 30 * _DAY_MS
HOLDS_MAX: Final = 200_000
SURVIVORS_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class Kept:
    """A record that is found by its key: its number, its epoch, and until when it is kept."""

    number: int
    epoch: int
    until_ms: int


class Shelf:
    """Finds records of the journal, and forgets them when nothing needs them any more."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.unconfirmed: Final = Confirmations()
        self.holds: Final[dict[str, Kept]] = {}
        self.survivors: Final[dict[str, Kept]] = {}
        self._waiting_too: set[int] = set()  # survivors that also wait for something else
        self._marks: dict[int, int] = {}
        self._cursors: dict[int, tuple[int, str]] = {}

    # What is acknowledged --------------------------------------------------------------------

    def put(self, number: int, entry: Entry) -> None:
        """Enter what was acknowledged now, or was found in the journal."""
        if entry.event:
            place = place_of(entry.stream_id)
            self.unconfirmed.add(entry.shard, entry.epoch, place, number)
        elif entry.done:
            self._marks[number] = entry.at_ms + _MARKS_LIVE_MS
        if entry.operation == "hold" and entry.hold is not None:
            self.end_hold(entry.key)
            until_ms = entry.hold.expires_at_ms + _DAY_MS
            self.holds[entry.key] = Kept(number, entry.epoch, until_ms)
            if len(self.holds) > HOLDS_MAX:
                self.end_hold(next(iter(self.holds)))
        elif entry.operation == "settle" and entry.answer["status"] == "settled":
            self.end_hold(entry.key)

    def end_hold(self, key: str) -> None:
        """Forget a hold that was settled or released."""
        kept = self.holds.pop(key, None)
        if kept is not None:
            self._journal.forget(kept.number)

    def put_survivor(self, number: int, entry: Entry) -> None:
        """Answer repeats of an id from a record that something else needs too, until `release`."""
        key = entry.key
        if key in self.survivors:
            if self.survivors[key].number == number:
                return
            self._drop_survivor(key)
        self.survivors[key] = Kept(number, entry.epoch, entry.at_ms + _DAY_MS)
        self._waiting_too.add(number)
        if len(self.survivors) > SURVIVORS_MAX:
            self._drop_survivor(next(iter(self.survivors)))

    def entry(self, number: int) -> Entry | None:
        """Return a record that is still needed. Raises `JournalError` when the disk fails."""
        (body,) = self._journal.read((number,))
        return None if body is None else decode(body)

    def survivor(self, account: str, id: str) -> Entry | None:
        """Return what older epochs left of an id. Raises `JournalError`."""
        kept = self.survivors.get(key_of(account, id))
        return None if kept is None else self.entry(kept.number)

    def hold(self, account: str, id: str) -> Entry | None:
        """Return the hold of an id that was acknowledged here and runs. Raises `JournalError`."""
        kept = self.holds.get(key_of(account, id))
        return None if kept is None else self.entry(kept.number)

    # What is not needed any more -------------------------------------------------------------

    def confirm(self, shard: int, epoch: int, stream_id: str) -> None:
        """Forget what the ledger has: all up to a place in the stream of an epoch."""
        # Also when it is where it was: it may have passed what was acknowledged only since.
        self._cursors[shard] = epoch, stream_id
        for number in self.unconfirmed.confirm(shard, epoch, floor_of(stream_id)):
            self.release(number)

    def is_confirmed(self, shard: int, epoch: int, stream_id: str) -> bool:
        """Tell whether the ledger is known to have an event."""
        known_epoch, cursor = self._cursors.get(shard, (0, "0-0"))
        return known_epoch == epoch and place_of(stream_id) <= floor_of(cursor)

    def release(self, number: int) -> None:
        """Forget a record that nothing waits for any more, unless it is a survivor."""
        if number in self._waiting_too:
            self._waiting_too.discard(number)
        else:
            self._journal.forget(number)

    def forget(self, number: int) -> None:
        """Forget a record that is not on the shelf."""
        self._journal.forget(number)

    def prune(self, now_ms: int) -> None:
        """Forget what was only kept for a time that is over."""
        for key in [key for key, kept in self.holds.items() if kept.until_ms < now_ms]:
            self.end_hold(key)
        for key in [key for key, kept in self.survivors.items() if kept.until_ms < now_ms]:
            self._drop_survivor(key)
        for number in [number for number, until_ms in self._marks.items() if until_ms < now_ms]:
            del self._marks[number]
            self._journal.forget(number)

    def _drop_survivor(self, key: str) -> None:
        self.release(self.survivors.pop(key).number)
