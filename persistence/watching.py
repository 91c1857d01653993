"""Accounts that have run low, by what Redis said: whoever looks after them finds them there."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import ARRAY


def watch(connection: Connection, accounts: Collection[str], at_ms: int) -> None:
    """Let accounts be looked at from `at_ms` on; those that the ledger does not have are left."""
    if accounts:
        connection.execute(_WATCH, {"accounts": sorted(accounts), "at_ms": at_ms})


_WATCH: Final = sa.text(
    """
    INSERT INTO watched_accounts AS w (account, rung_ms, due_ms)
    SELECT a.account, :at_ms, :at_ms FROM accounts a WHERE a.account = ANY(:accounts)
    ORDER BY a.account
    ON CONFLICT (account) DO UPDATE
    SET rung_ms = excluded.rung_ms, due_ms = least(w.due_ms, excluded.due_ms)
    """
).bindparams(sa.bindparam("accounts", type_=ARRAY(sa.Text)))
