"""What really happened, as the callers saw it: kept beside the model, and compared with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.rules import OVERDRAFT
from tests.simulation.values import Key, Violation


@dataclass(slots=True)
class Request:
    """One thing that a caller wants, with its id: it is sent until it is acknowledged, or more."""

    verb: str
    account: int
    id: str
    amount: int
    through: str = ""
    """The sidecar that acknowledged the hold."""
    is_acknowledged: bool = False


@dataclass(slots=True)
class Truth:
    """All that was granted, and all that was acknowledged: usage by key, and by which sidecars."""

    granted: list[int]
    charged: list[int]
    grants: dict[str, tuple[int, int]] = field(default_factory=dict)
    acknowledged: dict[Key, int] = field(default_factory=dict)
    by: dict[Key, set[str]] = field(default_factory=dict)
    holds: dict[str, int] = field(default_factory=dict)
    written_off: dict[Key, int] = field(default_factory=dict)
    risk: dict[Key, int] = field(default_factory=dict)
    """What an operator did not wait for, though it may come: it may be spent again meanwhile."""

    def grant(self, account: int, id: str, amount: int) -> None:
        """Know a payment: it stays, whatever the ledger forgets of it."""
        self.grants[id] = (account, amount)
        self.granted[account] += amount

    def acknowledge(self, key: Key, amount: int, sidecar: str, *, is_late: bool) -> None:
        """Know that a caller was told of a charge.

        Raises `Violation` when more was granted than there was: a charge within a hold, or a
        debit, must have been covered. What a settle charges beyond its hold, or when its hold is
        no more, is the true cost, and may exceed it.
        """
        self.by.setdefault(key, set()).add(sidecar)
        if key in self.acknowledged:
            if self.acknowledged[key] != amount:
                raise Violation("ended twice", f"{key} charged {amount} again")
            return
        self.acknowledged[key] = amount
        account, operation, id = key[:3]
        if operation == "settle":
            amount = 0 if is_late else min(amount, self.holds.get(id, 0))
        self.charged[account] += amount
        self.check(account)

    def check(self, account: int) -> None:
        """Raise `Violation` when the account's calls were granted more than it ever had."""
        off = sum(n for key, n in (self.written_off | self.risk).items() if key[0] == account)
        limit = self.granted[account] + OVERDRAFT + off
        if self.charged[account] > limit:
            detail = f"account {account}: {self.charged[account]} of {limit}"
            raise Violation("overspent", detail)
