"""The sidecar's own rounds: keep the lease, hand in after a loss, make good after an outage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final

from sidecar.errors import SettingsError, StoreUnavailable
from sidecar.meter.acknowledge import now_ms
from sidecar.meter.afterwards import Afterwards
from sidecar.meter.debts import Debts
from sidecar.meter.hand_in import HandIn
from sidecar.meter.journal import Journal
from sidecar.meter.lease import Lease
from sidecar.meter.room import CALM_PART
from sidecar.meter.shelf import Shelf
from sidecar.metrics import MeterMetrics

log: Final = logging.getLogger(__name__)

_CALM_SECONDS: Final = 1.0
_URGENT_SECONDS: Final = 0.1
_PRUNE_SECONDS: Final = 60.0


class Watch:
    """Looks after the lease for as long as the sidecar lives."""

    def __init__(
        self,
        lease: Lease,
        shelf: Shelf,
        journal: Journal,
        hand_in: HandIn,
        afterwards: Afterwards,
        debts: Debts,
        metrics: MeterMetrics,
        *,
        alarm_percent: int,
    ) -> None:
        self._lease = lease
        self._shelf = shelf
        self._journal = journal
        self._hand_in = hand_in
        self._afterwards = afterwards
        self._debts = debts
        self._alarm_ratio = alarm_percent / 100
        self._is_alarmed = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pruned_at = time.monotonic()
        metrics.survivors.set_function(lambda: len(shelf.survivors))
        metrics.holds.set_function(lambda: len(shelf.holds))

    async def start(self) -> None:
        """Look for the first time. Raises `SettingsError` for a Redis that may forget."""
        try:
            await self._round()
        except StoreUnavailable as error:
            log.warning("Redis is not there yet", extra={"error": str(error)})
        self._begin("watch", self._run())

    async def problem(self) -> str | None:
        """Look, and return what keeps this sidecar from deciding now, or None."""
        try:
            await self._round()
        except (StoreUnavailable, SettingsError) as error:
            return str(error)
        return self._lease.problem or self._journal.problem

    async def leave(self, grace_seconds: float) -> None:
        """Wait until the ledger has all that was acknowledged, and say goodbye.

        What is left after the time is handed in by the next process with this journal; until then
        workers wait for this sidecar when Redis is lost.
        """
        deadline = time.monotonic() + grace_seconds
        while self._is_needed() and time.monotonic() < deadline:
            with contextlib.suppress(StoreUnavailable, SettingsError):
                await self._round()
            await asyncio.sleep(_URGENT_SECONDS)
        await self._stop()
        if self._is_needed():
            fields = {"unconfirmed": len(self._shelf.unconfirmed)}
            log.warning("leaving before the ledger has confirmed everything", extra=fields)
            return
        with contextlib.suppress(StoreUnavailable, SettingsError):
            await self._lease.leave()

    def _is_needed(self) -> bool:
        return bool(len(self._shelf.unconfirmed) or self._debts.pending_accounts())

    async def _stop(self) -> None:
        # In Python 3.11 a cancellation may be lost within `wait_for`, which redis-py uses.
        while tasks := [task for task in self._tasks.values() if not task.done()]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_URGENT_SECONDS)

    async def _run(self) -> None:
        while True:
            is_calm = self._lease.problem is None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CALM_SECONDS if is_calm else _URGENT_SECONDS):
                    await self._lease.suspected.wait()
            if self._lease.suspected.is_set():
                self._lease.suspected.clear()
                await asyncio.sleep(_URGENT_SECONDS / 10)
            try:
                await self._round()
            except (StoreUnavailable, SettingsError):
                pass  # the lease has told of it
            except Exception:
                log.exception("a round of the watch failed")

    async def _round(self) -> None:
        await self._lease.refresh()
        self._watch_memory()
        to_hand_in = self._lease.to_hand_in()
        if to_hand_in:
            self._begin("hand in", self._hand_in.run(to_hand_in))
        if self._debts.pending_accounts():
            self._begin("make good", self._afterwards.make_good_all())
        if time.monotonic() - self._pruned_at > _PRUNE_SECONDS:
            self._pruned_at = time.monotonic()
            self._shelf.prune(now_ms())

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the rounds, unless it is being done."""
        task = self._tasks.get(name)
        if task is not None and not task.done():
            work.close()
            return
        self._tasks[name] = asyncio.create_task(work, name=name)
        self._tasks[name].add_done_callback(_report)

    def _watch_memory(self) -> None:
        # What moves about the mark is said once.
        mark = self._alarm_ratio * (CALM_PART if self._is_alarmed else 1.0)
        is_alarmed = self._lease.memory_ratio >= mark
        if is_alarmed and not self._is_alarmed:
            fields = {"ratio": round(self._lease.memory_ratio, 3)}
            log.warning("Redis is filling up: is the ledger confirming usage?", extra=fields)
        self._is_alarmed = is_alarmed


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a task of the watch failed", exc_info=task.exception())
