"""Access again: credits that came from elsewhere may have lifted what a dispute had suspended."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Engine

from persistence.database import in_transaction
from sidecar.billing import access
from sidecar.domain import AccountStatus


class AccessJob:
    """Derives the status of accounts again that a dispute suspends. Several workers may run one."""

    def __init__(
        self,
        engine: Engine,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._engine = engine
        self._now_ms = now_ms

    def run_once(self) -> int:
        """Look at every account that a dispute suspends; return how many may spend again."""
        with self._engine.connect() as c:
            suspended = access.disputed_and_suspended(c)
        return sum(self._is_lifted(account) for account in suspended)

    def _is_lifted(self, account: str) -> bool:
        now_ms = self._now_ms()
        status = in_transaction(self._engine, lambda c: access.refresh(c, account, now_ms))
        return status is not AccountStatus.SUSPENDED
