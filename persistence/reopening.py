"""Reopening: the next generation of accounts whose Redis was given up, once every journal is in.

By then the ledger has all that was acknowledged. What the old generation was lent and has not
spent comes back (its residue), and the account is lent anew exactly what it has:

- each grant with what remains of it by the ledger;
- less its debt, what it was charged beyond all grants or what is still to be taken from it. That
  is taken first, so that Redis never shows more than there is, and the grants then pay for it;
- or plus what was given back to it beyond all grants;
- and what was carried over together is carried over again, to the most that it may be: Redis had
  not done it, or what it told of it was lost.

What Redis did by itself and nobody acknowledged (an expiry, a cover) is done again there. Accounts
are reopened when a sidecar asks for them, and all others bit by bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from persistence import reopening_sql as sql
from persistence.database import in_transaction, now_ms
from persistence.generations import OPENING_LOCK, REFILL_CHANNEL, RefillKind
from persistence.rolling import roll_payload
from persistence.transfers import Transfer, TransferKind, post
from sidecar.domain import burn_order
from sidecar.metrics import WorkerMetrics

_log: Final = logging.getLogger(__name__)

BATCH_ACCOUNTS: Final = 200
"""Accounts that one transaction reopens."""

_COUNT_SECONDS: Final = 2.0  # there may be a million, and they are counted one by one


@dataclass(slots=True)
class _Reopening:
    """One account on its way from its superseded generation to the next."""

    account: str
    gen: int
    epoch: int
    settings: dict[str, Any]
    available_no: int
    lent_no: int
    residue: int
    available: int
    """What the account has when the residue is back: nothing of it is lent."""
    new_lent_no: int = 0
    refills: list[tuple[RefillKind, int, dict[str, Any]]] = field(default_factory=list)

    @property
    def lent(self) -> int:
        """What the refills lend."""
        return sum(amount for _, amount, _ in self.refills)

    def lend(self, grants: Sequence[sa.Row[Any]]) -> None:
        """Write the refills of the next generation."""
        debt = sum(int(grant.remaining) for grant in grants) - self.available
        self.refills.append((RefillKind.OPEN, 0, self.settings))
        if debt > 0:
            take = {"amount": debt, "grant_no": 0, "id": "reopened"}
            self.refills.append((RefillKind.TAKE, 0, take))
        elif debt < 0:
            # Nothing was dropped that this restores, so it is lent, and `amount` is 0.
            restore = {"allocations": [0, -debt], "amount": 0, "seq": 0}
            self.refills.append((RefillKind.RESTORE, -debt, restore))
        # What burns first comes first, and pays the debt.
        for order, grant in sorted((_order_of(grant), grant) for grant in grants):
            amount = int(grant.remaining)
            payload = {"grant_no": grant.grant_no, "amount": amount, "order": order, "id": grant.id}
            self.refills.append((RefillKind.GRANT, amount, payload))
        self._roll(grants)

    def _roll(self, grants: Sequence[sa.Row[Any]]) -> None:
        groups: dict[tuple[str, int], list[sa.Row[Any]]] = {}
        for grant in grants:
            if grant.rolled_keep:
                groups.setdefault((grant.rolled_group, int(grant.rolled_keep)), []).append(grant)
        for (_, keep), rolled in groups.items():
            self.refills.append((RefillKind.ROLL, 0, roll_payload(keep, rolled)))

    def transfers(self) -> list[Transfer]:
        """Return the residue's way back, and the loan to the next generation."""
        old, residue, reference = self.lent_no, self.residue, f"reopened:{self.gen + 1}"
        available = self.available_no
        moves = (
            (old, available, residue, TransferKind.RESIDUE),
            (available, old, -residue, TransferKind.RESIDUE),
            (available, self.new_lent_no, self.lent, TransferKind.LEND),
        )
        return [
            Transfer(debit, credit, amount, kind, self.account, reference)
            for debit, credit, amount, kind in moves
            if amount > 0
        ]


class Reopener:
    """Reopens accounts. Several workers may run one."""

    def __init__(self, engine: Engine, metrics: WorkerMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._left = 0
        self._count_at = 0.0

    def reopen(self, accounts: Sequence[str]) -> list[str]:
        """Reopen those of `accounts` that can be; return them.

        Others are as they were: their generation is present already, or journals are still out.
        Raises the errors of SQLAlchemy.
        """
        done: list[str] = []
        for start in range(0, len(accounts), BATCH_ACCOUNTS):
            batch = list(accounts[start : start + BATCH_ACCOUNTS])
            done += in_transaction(self._engine, lambda c, b=batch: _reopen(c, b))  # type: ignore[misc]
        self._metrics.reopened_accounts.inc(len(done))
        return done

    def run_once(self) -> int:
        """Reopen some accounts that nobody asked for; return how many. Raises as `reopen`."""
        with self._engine.connect() as connection:
            names = list(connection.scalars(sql.NEXT, {"limit": BATCH_ACCOUNTS}))
            if not names or time.monotonic() >= self._count_at:
                self._count(int(connection.scalars(sql.COUNT_SUPERSEDED).one()))
        if not names:
            return 0
        done = in_transaction(self._engine, lambda c: _reopen(c, names, is_patient=False))
        self._metrics.reopened_accounts.inc(len(done))
        return len(done)

    def _count(self, left: int) -> None:
        self._metrics.superseded_generations.set(left)
        if self._left and not left:
            _log.info("every account is reopened")
        self._left = left
        self._count_at = time.monotonic() + _COUNT_SECONDS


def _reopen(
    connection: Connection, accounts: Sequence[str], *, is_patient: bool = True
) -> list[str]:
    """Close what is superseded of these accounts and open the next generations; return which.

    A patient one waits for accounts that someone else changes now; otherwise they are left out.
    """
    # The epochs that are read here must not change before the generations can be seen.
    connection.execute(sa.text("SELECT pg_advisory_xact_lock_shared(:k)"), {"k": OPENING_LOCK})
    lock = sql.LOCK_ACCOUNTS if is_patient else sql.LOCK_FREE_ACCOUNTS
    locked = list(connection.scalars(lock, {"accounts": list(accounts)}))
    due = {"accounts": list(connection.scalars(sql.LOCK_SUPERSEDED, {"accounts": locked}))}
    # What was waited for may have changed the balances: they are read when all is locked.
    connection.execute(sql.LOCK_BALANCES, due)
    reopened = {row.account: _reopening(row) for row in connection.execute(sql.SUPERSEDED, due)}
    if not reopened:
        return []
    grants = _grants(connection, reopened)
    for account, one in reopened.items():
        one.lend(grants.get(account, []))
    _write(connection, list(reopened.values()))
    return list(reopened)


def _order_of(grant: sa.Row[Any]) -> str:
    return burn_order(grant.priority, grant.expires_at_ms, grant.category, grant.grant_no)


def _reopening(row: sa.Row[Any]) -> _Reopening:
    residue = int(row.lent_balance)
    return _Reopening(
        account=row.account,
        gen=row.gen,
        epoch=row.epoch,
        settings={
            "status": row.status,
            "overdraft": int(row.overdraft_limit),
            "reason": row.status_reason or "",
            "allowance": int(row.outage_allowance),
            "mark": int(row.mark),
        },
        available_no=row.available_no,
        lent_no=row.lent_no,
        residue=residue,
        available=int(row.available_balance) + residue,
    )


def _grants(connection: Connection, accounts: Iterable[str]) -> dict[str, list[sa.Row[Any]]]:
    grants: dict[str, list[sa.Row[Any]]] = {}
    for row in connection.execute(sql.REMAINING, {"accounts": list(accounts)}):
        grants.setdefault(row.account, []).append(row)
    return grants


def _write(connection: Connection, reopened: list[_Reopening]) -> None:
    values: dict[str, Any] = {
        "accounts": [one.account for one in reopened],
        "gens": [one.gen for one in reopened],
        "residues": [one.residue for one in reopened],
        "lent": [one.lent for one in reopened],
        "refills": [len(one.refills) for one in reopened],
        "names": [f"lent:{one.account}:{one.gen + 1}" for one in reopened],
        "epochs": [one.epoch for one in reopened],
        "now": now_ms(),
    }
    numbers = {row.account: row.no for row in connection.execute(sql.OPEN_LENT, values)}
    for one in reopened:
        one.new_lent_no = numbers[one.account]
    values["lent_nos"] = [one.new_lent_no for one in reopened]
    connection.execute(sql.CLOSE, values)
    connection.execute(sql.VOID, values)
    connection.execute(sql.OPEN, values)
    connection.execute(sql.TURN, values)
    moves = [move for one in reopened for move in one.transfers()]
    post(connection, moves, at_ms=values["now"])
    connection.execute(sql.REFILLS, _refill_values(reopened) | {"now": values["now"]})
    connection.execute(sql.NOTIFY, {"channel": REFILL_CHANNEL})


def _refill_values(reopened: list[_Reopening]) -> dict[str, Any]:
    rows = [
        (
            one.account,
            one.gen + 1,
            number,
            kind.value,
            amount,
            msgspec.json.encode(payload).decode(),
        )
        for one in reopened
        for number, (kind, amount, payload) in enumerate(one.refills, 1)
    ]
    names = ("accounts", "gens", "numbers", "kinds", "amounts", "payloads")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
