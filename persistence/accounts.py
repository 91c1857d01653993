"""Accounts: making, changing, finding and listing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from persistence.cursors import Page, decode_cursor, page_of
from persistence.database import now_ms
from persistence.errors import AccountUnknown
from persistence.generations import RefillKind, add_refill, open_generation
from persistence.tables import accounts
from sidecar.domain import MAX_AMOUNT, AccountStatus, is_account
from sidecar.errors import ErrorCode, Refusal
from sidecar.keys import shard_of


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account. `ledger` is what the ledger says is left: un-lent, and lent but not spent.

    `status` is what it may do, `operator_status` what operators decided of that.
    """

    account: str
    account_no: int
    shard: int
    name: str | None
    status: AccountStatus
    status_reason: str | None
    overdraft_limit: int
    low_balance_threshold: int | None
    stripe_customer: str | None
    outage_allowance: int
    granted_total: int
    generation: int
    created_ms: int
    updated_ms: int
    operator_status: AccountStatus
    operator_reason: str | None
    top_up_threshold: int | None
    ledger: int

    @property
    def mark(self) -> int:
        """With less than this available it has run low, in microcredits; 0 when it never does."""
        return max(self.low_balance_threshold or 0, self.top_up_threshold or 0)


CHANGEABLE: Final = frozenset(
    {"name", "overdraft_limit", "low_balance_threshold", "stripe_customer", "outage_allowance"}
)
"""What `put_account` may set."""

_ZERO_WHEN_CLEARED: Final = ("overdraft_limit", "outage_allowance")


def put_account(connection: Connection, account: str, changes: Mapping[str, Any]) -> AccountRow:
    """Make the account or change it, and return it as it now is.

    Fields that `changes` lacks stay as they are, None clears one. A new account gets its first
    generation at once. Raises `Refusal` (422) for another field or a value out of range.
    """
    values = _checked(account, changes)
    is_new = _insert(connection, account)
    before = _locked(connection, account)
    if values:
        _update(connection, account, values)
    after = _locked(connection, account)
    if is_new:
        open_generation(connection, account, after.shard, _settings_of(after))
    elif _settings_of(after) != _settings_of(before):
        add_refill(connection, account, RefillKind.STATUS, 0, _settings_of(after))
    return _locked(connection, account)


def set_status(
    connection: Connection, account: str, status: AccountStatus, reason: str | None
) -> AccountRow:
    """Set whether the account may spend, and why; return it as it now is.

    Raises `AccountUnknown`.
    """
    before = _locked(connection, account)
    if (before.status, before.status_reason) == (status, reason):
        return before
    _update(connection, account, {"status": status.value, "status_reason": reason})
    after = _locked(connection, account)
    add_refill(connection, account, RefillKind.STATUS, 0, _settings_of(after))
    return after


def set_operator_status(
    connection: Connection, account: str, status: AccountStatus, reason: str | None
) -> None:
    """Write down what an operator decided: `active`, `suspended` or `closed`, and why.

    What the account may do is derived of that and of other facts, and set by `set_status`.
    Raises `AccountUnknown`.
    """
    before = _locked(connection, account)
    if (before.operator_status, before.operator_reason) != (status, reason):
        change = {"operator_status": status.value, "operator_reason": reason}
        _update(connection, account, change)


def set_top_up_threshold(connection: Connection, account: str, threshold: int | None) -> AccountRow:
    """Set below how many microcredits the account is topped up; return it as it now is.

    None when it is not. Raises `AccountUnknown`, and `Refusal` (422) for a value out of range.
    """
    if not 0 <= (threshold or 0) <= MAX_AMOUNT:
        raise Refusal(ErrorCode.INVALID_REQUEST, "0 … 2^53-1.", param="threshold")
    before = _locked(connection, account)
    if before.top_up_threshold == threshold:
        return before
    _update(connection, account, {"top_up_threshold": threshold})
    after = _locked(connection, account)
    if after.mark != before.mark:
        add_refill(connection, account, RefillKind.STATUS, 0, _settings_of(after))
    return after


def get_account(
    connection: Connection, account: str, *, for_update: bool = False
) -> AccountRow | None:
    """Return the account, or None when there is none; `for_update` locks it."""
    if for_update:
        # Locked first and read afterwards: a join read while waiting would be the older state.
        lock = sa.select(accounts.c.account).where(accounts.c.account == account)
        connection.execute(lock.with_for_update(key_share=True))
    row = connection.execute(_ONE, {"account": account}).one_or_none()
    return None if row is None else _row(row)


def list_accounts(
    connection: Connection, limit: int = 100, cursor: str | None = None
) -> Page[AccountRow]:
    """Return a page of the accounts, newest first. Raises `Refusal` (422) for a bad cursor."""
    (before,) = decode_cursor(cursor, 1) if cursor else (MAX_AMOUNT,)
    found = connection.execute(_LIST, {"before": before, "limit": limit + 1}).all()
    return page_of([_row(row) for row in found], limit, lambda row: (row.account_no,))


def ledger_shards(connection: Connection) -> int:
    """Return into how many shards this ledger divides its accounts."""
    return int(connection.scalars(sa.text("SELECT shards FROM ledger")).one())


def _checked(account: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    if not is_account(account):
        raise Refusal(ErrorCode.INVALID_REQUEST, "Not an account name.", param="account")
    for field in changes:
        if field not in CHANGEABLE:
            raise Refusal(ErrorCode.INVALID_REQUEST, f"Unknown field {field}.", param=field)
    values = dict(changes)
    for field in _ZERO_WHEN_CLEARED:
        if field in values:
            values[field] = values[field] or 0
            if not 0 <= values[field] <= MAX_AMOUNT:
                raise Refusal(ErrorCode.INVALID_REQUEST, "0 … 2^53-1.", param=field)
    return values


def _insert(connection: Connection, account: str) -> bool:
    shard = shard_of(account, ledger_shards(connection))
    values = {"account": account, "shard": shard, "now": now_ms()}
    return connection.execute(_INSERT, values).one_or_none() is not None


def _update(connection: Connection, account: str, values: dict[str, Any]) -> None:
    change = accounts.update().where(accounts.c.account == account)
    connection.execute(change.values(values | {"updated_ms": now_ms()}))


def _locked(connection: Connection, account: str) -> AccountRow:
    row = get_account(connection, account, for_update=True)
    if row is None:
        raise AccountUnknown(account)
    return row


def _settings_of(row: AccountRow) -> dict[str, Any]:
    return {
        "status": row.status.value,
        "overdraft": row.overdraft_limit,
        "reason": row.status_reason or "",
        "allowance": row.outage_allowance,
        "mark": row.mark,
    }


def _row(row: sa.Row[Any]) -> AccountRow:
    values = dict(row._mapping)
    values["status"] = AccountStatus(values["status"])
    values["operator_status"] = AccountStatus(values["operator_status"])
    values["ledger"] = int(values["ledger"])
    return AccountRow(**values)


_INSERT: Final = sa.text(
    """
    INSERT INTO accounts (account, shard, created_ms, updated_ms)
    VALUES (:account, :shard, :now, :now)
    ON CONFLICT (account) DO NOTHING
    RETURNING account
    """
)

_COLUMNS: Final = """
    a.account, a.account_no, a.shard, a.name, a.status, a.status_reason, a.overdraft_limit,
    a.low_balance_threshold, a.stripe_customer, a.outage_allowance, a.granted_total, a.generation,
    a.created_ms, a.updated_ms, a.operator_status, a.operator_reason, a.top_up_threshold,
    (SELECT coalesce(sum(l.balance), 0) FROM ledger_accounts l
        WHERE l.account = a.account AND l.kind IN ('available', 'lent')) AS ledger
"""

_ONE: Final = sa.text(f"SELECT {_COLUMNS} FROM accounts a WHERE a.account = :account")

_LIST: Final = sa.text(
    f"SELECT {_COLUMNS} FROM accounts a WHERE a.account_no < :before"
    " ORDER BY a.account_no DESC LIMIT :limit"
)
