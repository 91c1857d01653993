"""How far the ledger is behind Redis: after an outage of Postgres, events wait in the streams."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sidecar.metrics import WorkerMetrics

_log: Final = logging.getLogger(__name__)

BEHIND_SECONDS: Final = 10.0
"""How old an event may be that is not in the ledger; then the ledger is behind."""

_CALM_PART: Final = 0.2  # of those seconds: below that it has caught up


@dataclass(frozen=True, slots=True)
class _Begun:
    """When catching up began (monotonic), how many events waited, and how many were in by then."""

    at: float
    unflushed: int
    flushed: int


class CatchingUp:
    """Shows what waits for the ledger, and tells when that is too much and when it is over."""

    def __init__(
        self,
        metrics: WorkerMetrics,
        *,
        behind_seconds: float = BEHIND_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._behind_seconds = behind_seconds
        self._calm_seconds = behind_seconds * _CALM_PART
        self._clock = clock
        self._begun: _Begun | None = None
        self._lag_seconds = 0.0
        self._looked_at: float | None = None

    def look(self, unflushed: int, lag_seconds: float, flushed: int) -> None:
        """Take in what a look at all shards says.

        `unflushed` events wait, the oldest for `lag_seconds`; `flushed`: how many the ledger has.
        """
        if self._looked_at is None:
            self._metrics.flush_lag_seconds.set_function(self._lag)
        self._lag_seconds, self._looked_at = lag_seconds, self._clock()
        self._metrics.unflushed_events.set(unflushed)
        if self._begun is None and lag_seconds >= self._behind_seconds:
            self._begun = _Begun(self._looked_at, unflushed, flushed)
            fields = {"events": unflushed, "lag_seconds": round(lag_seconds, 1)}
            _log.warning("the ledger is behind: events wait in Redis", extra=fields)
        elif self._begun is not None and lag_seconds < self._calm_seconds:
            self._report(self._begun, flushed)
            self._begun = None
        self._metrics.catch_up_seconds.set(self._estimate(unflushed))

    def _lag(self) -> float:
        """Return the lag as it is now: it grows also while Postgres cannot be asked."""
        since = self._clock() - (self._looked_at or 0.0)
        is_stale = self._lag_seconds > 0 or since > self._calm_seconds
        return self._lag_seconds + since if is_stale else 0.0

    def _estimate(self, unflushed: int) -> float:
        """Return in how many seconds nothing waits, if it goes on like this; it may be infinity."""
        if self._begun is None:
            return 0.0
        less = self._begun.unflushed - unflushed
        seconds = self._clock() - self._begun.at
        return unflushed * seconds / less if less > 0 else math.inf

    def _report(self, begun: _Begun, flushed: int) -> None:
        seconds = self._clock() - begun.at
        events = max(flushed - begun.flushed, 0)
        rate = round(events / seconds) if seconds > 0 else events
        fields = {"events": events, "seconds": round(seconds, 1), "events_per_second": rate}
        _log.info("the ledger has caught up", extra=fields)
