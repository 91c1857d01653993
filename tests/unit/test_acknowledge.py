"""Repeats whose first try was not acknowledged here: their event must be somewhere.

The parts around the acknowledger are only names here; what they say is made up.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.errors import StoreUnavailable
from sidecar.meter.acknowledge import Acknowledger
from sidecar.meter.entries import Entry
from sidecar.meter.lease import Place
from sidecar.meter.operations import Plan
from sidecar.meter.store import Decision

PLACE = Place(0, 1, *([SimpleNamespace()] * 2))  # type: ignore[arg-type]
REPEAT = Decision([b"replayed"], PLACE, stream_id="5-1")
ANSWER = {"id": "d1", "status": "debited", "charged": 10, "available": 90, "replayed": True}


class Around:
    """The parts around: what is in the stream, and what the ledger has after the next look."""

    def __init__(
        self, *, event: bytes = b"", is_flushed: bool = False, is_lost_by_writing: bool = False
    ) -> None:
        self.event_found, self.is_flushed = event, is_flushed
        self.is_lost_by_writing = is_lost_by_writing
        self.forgotten: list[int] = []
        self.shelf: list[tuple[int, str, int]] = []
        self.looks = self.suspicions = 0
        self.written: list[bytes] = []

    async def look_again(self) -> None:
        self.looks += 1

    def suspect(self) -> None:
        self.suspicions += 1

    def require(self, _: Place) -> None:
        """The lease runs, or ends while something is written."""
        if self.is_lost_by_writing and self.written:
            raise StoreUnavailable("lost")

    async def event(self, *_: Any) -> bytes:
        return self.event_found

    def is_confirmed(self, *_: Any) -> bool:
        return self.looks > 0 and self.is_flushed

    def append(self, body: bytes, **_: Any) -> Any:
        self.written.append(body)
        done = asyncio.get_running_loop().create_future()
        done.set_result(len(self.written))
        return done

    def forget(self, number: int) -> None:
        self.forgotten.append(number)

    def put(self, number: int, entry: Entry) -> None:
        self.shelf.append((number, entry.operation, entry.done))

    def acknowledge(self) -> None:
        parts: Any = self
        acknowledger = Acknowledger(parts, parts, parts, parts, parts)
        request: Any = SimpleNamespace(account="acme")
        plan = Plan(args=("d1", "print", 10))
        asyncio.run(acknowledger.acknowledge("debit", request, plan, REPEAT, dict(ANSWER)))


def test_a_repeat_whose_event_is_in_the_stream_is_written_down() -> None:
    around = Around(event=b"the event")
    around.acknowledge()
    assert (len(around.written), around.looks) == (1, 0)


def test_a_repeat_whose_event_the_ledger_has_by_now_needs_no_record() -> None:
    around = Around(is_flushed=True)
    around.acknowledge()
    assert (around.written, around.looks) == ([], 1)


def test_a_repeat_whose_event_is_nowhere_is_not_acknowledged() -> None:
    around = Around()
    with pytest.raises(StoreUnavailable):
        around.acknowledge()
    assert (around.written, around.suspicions) == ([], 1)


def test_a_record_that_was_written_when_redis_was_lost_is_void_also_after_a_restart() -> None:
    around = Around(event=b"the event", is_lost_by_writing=True)
    with pytest.raises(StoreUnavailable):
        around.acknowledge()
    # Its segment may stay on the disk for long: the second record says that it never counted.
    assert around.forgotten == [1]
    assert around.shelf == [(2, "void", 1)]
