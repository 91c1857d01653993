"""Postgres: the rows of the ledger, and the small transactions on them.

What is one transaction in the real code is one call here, or a few between `is_locked` and its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.simulation.rules import Rules
from tests.simulation.values import Event, Fence, Key, Refill


@dataclass(slots=True)
class Shard:
    """A row of `shards`, with the drains of its epoch: sidecar -> whether its journal is in."""

    epoch: int
    run_id: int
    replid: int
    state: str = "open"
    cause: str = ""
    is_fenced: bool = True
    cursor: int = 0
    flushed: int = 0
    drains: dict[str, bool] = field(default_factory=dict)
    is_locked: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it is open, and Redis has its fence."""
        return self.state == "open" and self.is_fenced

    def fits(self, fence: Fence | None) -> bool:
        """Tell whether a fence is the one that the ledger wrote."""
        return fence is not None and fence[:3] == (self.epoch, self.run_id, self.replid)

    def suspect(self, epoch: int, cause: str) -> None:
        """`persistence.recovery.suspect`."""
        if self.epoch == epoch and self.state != "suspect":
            self.state, self.cause = "suspect", cause


@dataclass(slots=True)
class Generation:
    """A row of `generations`, and the balance of its `lent` account."""

    epoch: int
    balance: int = 0
    lent: int = 0
    spent: int = 0
    returned: int = 0
    over: int = 0
    seq: int = 0
    applied: int = 0
    is_closed: bool = False
    refills: list[Refill] = field(default_factory=list)


@dataclass(slots=True)
class Account:
    """A row of `accounts` with its generations, and the balances of its ledger accounts."""

    shard: int
    gen: int = 1
    available: int = 0
    spent: int = 0
    suspended: int = 0
    grants: dict[str, int] = field(default_factory=dict)
    gens: dict[int, Generation] = field(default_factory=dict)

    @property
    def present(self) -> Generation:
        """The newest generation."""
        return self.gens[self.gen]


@dataclass(slots=True)
class Row:
    """A row of `sidecars`."""

    boot: int
    state: str
    registration: int


@dataclass(slots=True)
class Ledger:
    """All of it. `opener` holds the opening lock alone; others share it, one step at a time."""

    timeline: int
    shards: list[Shard]
    accounts: list[Account]
    sidecars: dict[str, Row] = field(default_factory=dict)
    usage: dict[Key, Event] = field(default_factory=dict)
    duplicates: set[Event] = field(default_factory=set)
    letters: dict[Event, str] = field(default_factory=dict)
    registrations: int = 0
    evened_out: int = 0
    opener: object = None

    def copy(self) -> Ledger:
        """Return what another server, or a backup, has of it: all that is committed now."""
        shards = [replace(s, drains=dict(s.drains), is_locked=False) for s in self.shards]
        accounts = [
            replace(
                a,
                grants=dict(a.grants),
                gens={n: replace(g, refills=list(g.refills)) for n, g in a.gens.items()},
            )
            for a in self.accounts
        ]
        sidecars = {name: replace(row) for name, row in self.sidecars.items()}
        return Ledger(
            self.timeline, shards, accounts, sidecars, dict(self.usage), set(self.duplicates),
            dict(self.letters), self.registrations, self.evened_out,
        )  # fmt: skip

    # Accounts ---------------------------------------------------------------------------------

    def is_present(self, account: Account) -> bool:
        """Tell whether the newest generation may be lent to."""
        generation = account.present
        return not generation.is_closed and generation.epoch == self.shards[account.shard].epoch

    def is_sendable(self, account: Account) -> bool:
        """Tell whether refills may go to Redis: `persistence.refill_rows._SENDABLE`."""
        shard = self.shards[account.shard]
        return self.is_present(account) and shard.state != "suspect" and shard.is_fenced

    def is_due(self, account: Account) -> bool:
        """Tell whether it can be reopened: `persistence.reopening_sql._IS_DUE`."""
        shard = self.shards[account.shard]
        return account.present.epoch < shard.epoch and shard.is_whole

    def grant(self, name: int, id: str, amount: int) -> None:
        """Add the credits of a payment, once: what is superseded gets nothing lent."""
        account = self.accounts[name]
        if id in account.grants:
            return
        account.grants[id] = amount
        account.available += amount
        if self.is_present(account):
            self.lend(account, Refill("grant", amount))

    def lend(self, account: Account, refill: Refill) -> None:
        """Move credits to the newest generation by a refill: `generations.add_refill`."""
        generation = account.present
        lent = refill.amount if refill.kind == "grant" else 0
        account.available -= lent
        generation.balance += lent
        generation.lent += lent
        generation.refills.append(refill)

    def reopen(self, account: Account, rules: Rules) -> None:
        """Close the superseded generation and open the next: `persistence.reopening._reopen`."""
        old = account.present
        if rules.counts_only_what_went_in or old.balance:
            account.available += old.balance
            old.balance = 0
        old.is_closed = True
        account.gen += 1
        account.gens[account.gen] = Generation(self.shards[account.shard].epoch)
        self.lend(account, Refill("open", 0))
        if account.available > 0:
            self.lend(account, Refill("grant", account.available))
        elif account.available < 0:
            self.lend(account, Refill("take", -account.available))

    # Recovery ---------------------------------------------------------------------------------

    def give_up(self, shard: Shard, epoch: int, run_id: int, replid: int) -> None:
        """Begin a new epoch that waits for every sidecar's journal: `recovery.give_up`."""
        shard.epoch, shard.run_id, shard.replid = epoch, run_id, replid
        shard.cursor = shard.flushed = 0
        shard.state, shard.cause, shard.is_fenced = "draining", "", False
        shard.drains = {n: False for n, row in self.sidecars.items() if row.state == "alive"}

    def finish_drains(self, shards: list[Shard], rules: Rules) -> None:
        """Open the shards that wait for no journal any more: `recovery.finish_drains`."""
        for shard in shards:
            is_in = all(shard.drains.values()) or not rules.waits_for_journals
            if shard.state == "draining" and shard.is_fenced and is_in:
                shard.state = "open"

    # Sidecars ---------------------------------------------------------------------------------

    def may_enter(self) -> bool:
        """Tell whether nobody is in the way of `enter` and `end`: their locks are free."""
        busy = any(s.is_locked for s in self.shards if s.state == "draining")
        return self.opener is None and not busy

    def enter(self, name: str, boot: int) -> None:
        """`persistence.sidecars.enter`."""
        self.registrations += 1
        self.sidecars[name] = Row(boot, "alive", self.registrations)
        for shard in self.shards:
            if shard.state == "draining":
                shard.drains.setdefault(name, False)

    def end(self, name: str, state: str, rules: Rules) -> None:
        """`persistence.sidecars.end`."""
        row = self.sidecars.get(name)
        if row is None or row.state != "alive":
            return
        row.state = state
        waiting = [s for s in self.shards if s.drains.get(name) is False]
        for shard in waiting:
            del shard.drains[name]
        self.finish_drains(waiting, rules)

    def is_pending(self, name: str) -> bool:
        """Tell whether a shard waits for a sidecar's journal."""
        return any(shard.drains.get(name) is False for shard in self.shards)

    def leave(self, name: str, registration: int) -> bool:
        """`persistence.sidecars.leave`: let go of a silent one whose work is in the ledger."""
        row = self.sidecars[name]
        is_same = row.state == "alive" and row.registration == registration
        if not is_same or self.is_pending(name):
            return False
        row.state = "gone"
        return True

    def is_flushed(self, target: dict[tuple[int, int], int]) -> bool:
        """`persistence.sidecars.is_flushed`."""
        return all(
            shard.is_whole and shard.flushed >= target.get((number, shard.epoch), 1 << 60)
            for number, shard in enumerate(self.shards)
        )
