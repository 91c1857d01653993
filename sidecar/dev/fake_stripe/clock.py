"""The fake's clock: real time plus an offset, and what comes due on the way."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable

HOUR = 3_600
DAY = 86_400


class Clock:
    """Tells the time and keeps the agenda. Only `advance` moves it other than real time does."""

    def __init__(self, real: Callable[[], float] = time.time) -> None:
        self._real = real
        self._offset = 0
        self._frozen: int | None = None
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def now(self) -> int:
        """Return the time in Unix seconds; while the agenda runs, that of the entry."""
        return int(self._real()) + self._offset if self._frozen is None else self._frozen

    def at(self, due: int, action: Callable[[], None]) -> None:
        """Put an action on the agenda. It must find out by itself whether it is still wanted."""
        heapq.heappush(self._agenda, (due, next(self._numbers), action))

    def soon(self, action: Callable[[], None]) -> None:
        """Put an action on the agenda that runs right after what goes on now."""
        self.at(self.now(), action)

    def advance(self, seconds: int) -> None:
        """Move the clock and run what comes due on the way, in order of time.

        Raises `ValueError` for a step back.
        """
        if seconds < 0:
            raise ValueError("The clock moves forward only.")
        self._run(self.now() + seconds)

    def catch_up(self) -> None:
        """Run what is due by now; nothing happens while the agenda runs already."""
        if self._frozen is None and self._agenda and self._agenda[0][0] <= self.now():
            self._run(self.now())

    def _run(self, until: int) -> None:
        began = self._frozen = self.now()
        try:
            while self._agenda and self._agenda[0][0] <= until:
                due, _, action = heapq.heappop(self._agenda)
                self._frozen = max(self._frozen, due)
                action()
        finally:
            self._frozen = None
            self._offset += until - began
