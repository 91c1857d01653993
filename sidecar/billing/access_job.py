"""Access again: what came since may lift what a dispute suspends, or have it suspend."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Engine

from persistence.database import in_transaction
from sidecar.billing import access


class AccessJob:
    """Derives the status of accounts in dispute again. Several workers may run one."""

    def __init__(
        self,
        engine: Engine,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._engine = engine
        self._now_ms = now_ms

    def run_once(self) -> int:
        """Look at every account that a dispute suspends, or has to; return how many changed."""
        with self._engine.connect() as c:
            doubtful = access.doubtful(c)
        return sum(self._is_changed(*one) for one in doubtful.items())

    def _is_changed(self, account: str, status: str) -> bool:
        now_ms = self._now_ms()
        found = in_transaction(self._engine, lambda c: access.refresh(c, account, now_ms))
        return found.value != status
