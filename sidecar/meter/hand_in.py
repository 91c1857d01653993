"""Handing in: what older epochs left in the journal goes to the shards' new streams, then the mark.

After a loss the ledger believes journals only. It gives an account's credits out again when every
sidecar has handed in; so does this one before it decides for the shard again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from sidecar.errors import JournalError, StoreUnavailable
from sidecar.meter.confirmations import place_of
from sidecar.meter.lease import Lease, Place
from sidecar.meter.nodes import Node
from sidecar.meter.shelf import Shelf
from sidecar.meter.store import Store
from sidecar.metrics import MeterMetrics

log: Final = logging.getLogger(__name__)

T = TypeVar("T")

_EVENTS: Final = 200
_SHARDS_AT_ONCE: Final = 8


class HandIn:
    """Hands journals in, shard by shard."""

    def __init__(
        self, store: Store, lease: Lease, shelf: Shelf, sidecar_id: str, metrics: MeterMetrics
    ) -> None:
        self._store = store
        self._lease = lease
        self._shelf = shelf
        self._sidecar_id = sidecar_id
        self._metrics = metrics

    async def run(self, places: Sequence[Place]) -> None:
        """Hand in to some shards in their present epochs; what fails is tried again later."""
        failing: set[Node] = set()
        for some in _chunks(places, _SHARDS_AT_ONCE):
            # A node that fails does not keep the others waiting.
            mine = [place for place in some if place.node not in failing]
            done = await asyncio.gather(*map(self._try, mine))
            failing |= {
                place.node for place, is_done in zip(mine, done, strict=True) if not is_done
            }

    async def _try(self, place: Place) -> bool:
        """Hand in to one shard; tell whether its node is there."""
        try:
            await self._hand_in(place)
        except (StoreUnavailable, JournalError) as error:
            log.warning(
                "a journal could not be handed in yet",
                extra={"shard": place.shard, "epoch": place.epoch, "error": str(error)},
            )
            return isinstance(error, JournalError)
        return True

    async def _hand_in(self, place: Place) -> None:
        numbers = self._shelf.unconfirmed.older(place.shard, place.epoch)
        for chunk in _chunks(numbers, _EVENTS):
            events = self._events(chunk)
            if events and await self._store.hand_in(place, "", events) is None:
                return
            self._metrics.handed_in_events.inc(len(events))
        mark = f"{self._sidecar_id} {place.epoch}"
        last = await self._store.hand_in(place, mark, [])
        if last is None:
            return  # it is of another epoch by now
        self._shelf.unconfirmed.moved(place.shard, place.epoch, place_of(last), numbers)
        self._lease.handed_in(place.shard, place.epoch)
        if numbers:
            fields = {"shard": place.shard, "epoch": place.epoch, "events": len(numbers)}
            log.warning("handed in what an older epoch left", extra=fields)

    def _events(self, numbers: Sequence[int]) -> list[bytes]:
        """Return events from the journal, and answer for their ids from now on."""
        events = []
        for number in numbers:
            entry = self._shelf.entry(number)
            if entry is not None:
                self._shelf.put_survivor(number, entry)
                events.append(entry.event)
        return events


def _chunks(all_of_them: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(all_of_them), size):
        yield all_of_them[start : start + size]
