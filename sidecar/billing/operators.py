"""What operators decide of an account: one fact among those that its access is derived of."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from persistence import accounts
from sidecar.billing import access
from sidecar.domain import AccountStatus


def decide(c: Connection, account: str, status: AccountStatus, reason: str, now_ms: int) -> None:
    """Write down that an operator suspends, closes or resumes an account, and derive its access.

    Raises `AccountUnknown`.
    """
    accounts.set_operator_status(c, account, status, reason)
    access.refresh(c, account, now_ms)


def forgive(c: Connection, account: str, now_ms: int) -> int:
    """Let the disputes of an account's payments suspend it no more; return how many could.

    That goes with resuming it. Call it before anything else locks the account: disputes are locked
    first everywhere.
    """
    return c.execute(_FORGIVE, {"account": account, "now_ms": now_ms}).rowcount


_FORGIVE: Final = text(
    """
    UPDATE stripe_disputes d SET is_forgiven = true, updated_ms = :now_ms
    FROM stripe_payments p
    WHERE p.account = :account AND NOT d.is_forgiven
        AND (d.payment_intent = p.payment_intent OR d.charge = p.charge)
    """
)
