"""Patience with shards whose fence could not be written: each try costs the ledger an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa

_FIRST_SECONDS: Final = 0.25
_LONGEST_SECONDS: Final = 15.0


class Patience:
    """When a shard is tried again: the later, the more often it failed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[int, tuple[int, float]] = {}

    def ready(self, rows: Sequence[sa.Row[Any]]) -> list[sa.Row[Any]]:
        """Return the rows of shards whose time has come."""
        now = self._clock()
        return [row for row in rows if now >= self._failures.get(row.shard, (0, now))[1]]

    def failed(self, shards: Iterable[int]) -> None:
        """Let shards wait, twice as long each time."""
        for shard in shards:
            count = self._failures.get(shard, (0, 0.0))[0] + 1
            seconds = min(_FIRST_SECONDS * 2 ** min(count - 1, 16), _LONGEST_SECONDS)
            self._failures[shard] = count, self._clock() + seconds

    def worked(self, shards: Iterable[int]) -> None:
        """Forget what failed before."""
        for shard in shards:
            self._failures.pop(shard, None)
