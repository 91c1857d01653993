"""After an outage: the calls that were accepted without Redis are run, as scripts, in their order.

A call is run again after every doubt: its id makes the scripts do it once, and the record of its
id answers for it when Redis forgot everything between. Once done, a mark in the journal says so.
"""

from __future__ import annotations

import logging
from typing import Final

from sidecar.errors import JournalError, Refusal, StoreUnavailable
from sidecar.meter.acknowledge import Acknowledger
from sidecar.meter.debts import Debt, Debts
from sidecar.meter.entries import Entry
from sidecar.meter.shelf import Shelf
from sidecar.meter.store import Decision, Store
from sidecar.metrics import MeterMetrics

log: Final = logging.getLogger(__name__)

_DONE: Final = frozenset({b"debited", b"settled", b"held", b"released"})
_NOTHING_TO_RELEASE: Final = frozenset({b"hold_not_found", b"hold_expired"})


class Afterwards:
    """Makes good what `Outage` granted."""

    def __init__(
        self,
        store: Store,
        shelf: Shelf,
        acknowledger: Acknowledger,
        debts: Debts,
        metrics: MeterMetrics,
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._acknowledger = acknowledger
        self._debts = debts
        self._metrics = metrics

    def recover(self, numbered: dict[int, Entry]) -> None:
        """Take over what a journal has of earlier processes: calls without their mark."""
        done = {entry.done for entry in numbered.values() if entry.done}
        for number, entry in numbered.items():
            if entry.hold is not None and entry.hold.is_granted_here:
                with self._debts.of(entry.account) as debt:
                    debt.holds[entry.key] = entry.hold.amount
            if entry.arguments is None:
                continue
            if number in done:
                self._shelf.forget(number)
                continue
            with self._debts.of(entry.account) as debt:
                charged = entry.answer["charged"] if entry.operation == "debit" else 0
                debt.pending.append((number, charged))
                debt.charged += charged
                self._shelf.put_survivor(number, entry)

    async def make_good_all(self) -> None:
        """Run what is pending of all accounts that can be decided now."""
        for account in self._debts.pending_accounts():
            try:
                await self.make_good(account)
            except StoreUnavailable as error:
                log.debug("still without Redis", extra={"error": str(error)})

    async def make_good(self, account: str) -> None:
        """Run what is pending of one account. Raises `StoreUnavailable` when that is not all."""
        if not self._debts.has_pending(account):
            return
        with self._debts.of(account) as debt:
            async with debt.lock:
                while debt.pending:
                    await self._run_first(debt)

    async def _run_first(self, debt: Debt) -> None:
        number, charged = debt.pending[0]
        try:
            entry = self._shelf.entry(number)
        except JournalError as error:
            raise StoreUnavailable(str(error)) from error
        if entry is not None:
            await self._run(number, entry)
        debt.pending.popleft()
        debt.charged -= charged

    async def _run(self, number: int, entry: Entry) -> None:
        try:
            decision = await self._store.run(
                entry.operation, entry.account, tuple(entry.arguments or ())
            )
        except Refusal as refusal:
            raise StoreUnavailable(refusal.message) from refusal
        self._report(entry, decision)
        await self._acknowledger.made_good(number, entry, decision)
        self._shelf.release(number)

    def _report(self, entry: Entry, decision: Decision) -> None:
        is_released = entry.operation == "release" and decision.status in _NOTHING_TO_RELEASE
        if decision.status in _DONE or is_released:
            return
        self._metrics.degraded_refused.labels(entry.operation).inc()
        log.error(
            "what was accepted while Redis was away was refused afterwards: another sidecar had "
            "decided the same id otherwise",
            extra={
                "account": entry.account,
                "id": entry.id,
                "operation": entry.operation,
                "status": decision.status.decode(),
                "answer": entry.answer,
            },
        )
