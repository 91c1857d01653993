"""Transactions on the ledger for control requests: a ledger that is away becomes a 503."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import TimeoutError as PoolTimeout

from persistence.database import in_transaction
from sidecar.errors import ErrorCode, LedgerUnavailable, Refusal

T = TypeVar("T")

LEDGER_AWAY: Final = (LedgerUnavailable, PoolTimeout)
"""What is raised when Postgres is away, or all connections to it are in use."""


class Ledger:
    """Runs work in a transaction each. What the work does must be safe to do again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction and return what it returns.

        Raises `Refusal`: 503 when Postgres is away, and those that the work raises.
        """
        try:
            return in_transaction(self._engine, work)
        except LEDGER_AWAY as error:
            raise ledger_away() from error


def ledger_away() -> Refusal:
    """Return the refusal of what needs a ledger that cannot be reached."""
    return Refusal(ErrorCode.STORE_UNAVAILABLE, "The ledger cannot be reached now. Send it again.")


def account_not_found() -> Refusal:
    """Return the refusal of an account that the ledger does not know."""
    return Refusal(ErrorCode.ACCOUNT_NOT_FOUND, "There is no such account.", param="account")
