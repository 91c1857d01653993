"""What accounts were granted while Redis was away, and has not been made good yet."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection, Iterator
from typing import Final

from sidecar.meter.shelf import Shelf
from sidecar.metrics import MeterMetrics


class Debt:
    """One account's.

    `pending`: number of the record, and what it uses of the allowance, of each call that is still
    to be run, in their order. `charged`, and `holds` by key, are what is used altogether.
    """

    __slots__ = ("_account", "_allowances", "_running", "charged", "holds", "lock", "pending",
                 "users")  # fmt: skip

    def __init__(self, account: str, allowances: dict[str, int], running: Collection[str]) -> None:
        self._account = account
        self._allowances = allowances
        self._running = running
        self.pending: deque[tuple[int, int]] = deque()
        self.charged = 0
        self.holds: dict[str, int] = {}
        self.lock = asyncio.Lock()
        self.users = 0

    def left(self) -> int:
        """Return what may still be used of the allowance, in microcredits; it may be negative."""
        for key in [key for key in self.holds if key not in self._running]:
            del self.holds[key]
        allowance = self._allowances.get(self._account, 0)
        return allowance - self.charged - sum(self.holds.values())

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to remember."""
        self.left()
        return not (self.pending or self.charged or self.holds)


class Debts:
    """All accounts'. `allowances`: by account, as Redis last said, of those that have one."""

    def __init__(self, shelf: Shelf, allowances: dict[str, int], metrics: MeterMetrics) -> None:
        self._shelf = shelf
        self._allowances = allowances
        self._all: Final[dict[str, Debt]] = {}
        metrics.degraded_pending.set_function(
            lambda: sum(len(debt.pending) for debt in self._all.values())
        )

    def allowance(self, account: str) -> int:
        """Return the allowance of an account, or 0."""
        return self._allowances.get(account, 0)

    @contextlib.contextmanager
    def of(self, account: str) -> Iterator[Debt]:
        """What one account owes; it is forgotten again when that is nothing."""
        debt = self._all.get(account)
        if debt is None:
            debt = self._all[account] = Debt(account, self._allowances, self._shelf.holds)
        debt.users += 1
        try:
            yield debt
        finally:
            debt.users -= 1
            if not debt.users and debt.is_settled:
                del self._all[account]

    def has_pending(self, account: str) -> bool:
        """Tell whether calls of an account are still to be run."""
        debt = self._all.get(account)
        return debt is not None and bool(debt.pending)

    def pending_accounts(self) -> list[str]:
        """Return the accounts that have calls to be run."""
        return [account for account, debt in self._all.items() if debt.pending]
