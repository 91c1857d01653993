"""Room in Redis: from a mark on nothing new begins, until there is clearly room again."""

from __future__ import annotations

import logging
from typing import Final

from sidecar.metrics import MeterMetrics

log: Final = logging.getLogger(__name__)

CALM_PART: Final = 0.95
"""Of the mark: below that there is room again. In between, it is as it was."""


class Room:
    """Whether Redis has room for new calls, with the memory that it was last seen to use."""

    def __init__(self, refuse_percent: int, metrics: MeterMetrics) -> None:
        self._mark = refuse_percent / 100
        self._metrics = metrics
        self._is_full = False

    def refuses(self, memory_ratio: float) -> bool:
        """Tell whether a new call is refused, and count it if so; changes are logged."""
        is_full = self._look(memory_ratio)
        if is_full:
            self._metrics.memory_refusals.inc()
        return is_full

    def _look(self, memory_ratio: float) -> bool:
        was_full = self._is_full
        self._is_full = memory_ratio >= self._mark * (CALM_PART if was_full else 1.0)
        if self._is_full != was_full:
            self._report(memory_ratio)
        return self._is_full

    def _report(self, memory_ratio: float) -> None:
        fields = {"ratio": round(memory_ratio, 3), "mark": self._mark}
        if self._is_full:
            log.error("Redis is nearly full: holds, debits and extends are refused", extra=fields)
        else:
            log.info("Redis has room again: new calls are accepted", extra=fields)
