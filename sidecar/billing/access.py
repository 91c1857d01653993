"""Access: the one place that derives whether an account may spend, from facts.

The first that applies:

- `closed`, `suspended`: an operator said so;
- `suspended`: the bank took back a payment of the account, which is below zero because of it,
  and no operator has let it go on;
- `grace`: a renewal of one of its plans failed, and the grace of that plan is not over;
- `active`.

What is derived goes to Redis as a numbered refill, and the gate decides by it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, select, text

from persistence import accounts
from persistence.accounts import AccountRow
from persistence.errors import AccountUnknown
from persistence.plan_tables import stripe_subscriptions as subscriptions
from sidecar.billing.alerts import AlertKind, raise_alert
from sidecar.domain import AccountStatus

DISPUTED: Final = "a payment is disputed and the account is below zero"
RENEWAL_FAILED: Final = "a renewal failed"


@dataclass(frozen=True, slots=True)
class Access:
    """What an account may do, and why."""

    status: AccountStatus
    reason: str | None


def refresh(c: Connection, account: str, now_ms: int) -> AccountStatus:
    """Derive an account's status, tell Redis and the product when it changed, and return it.

    Call it in the transaction of whatever changed a fact. Raises `AccountUnknown`.
    """
    before = accounts.get_account(c, account, for_update=True)
    if before is None:
        raise AccountUnknown(account)
    access = derive(c, before)
    after = accounts.set_status(c, account, access.status, access.reason)
    _tell(c, before, access, now_ms)
    return after.status


def derive(c: Connection, row: AccountRow) -> Access:
    """Return what an account may do by the facts as they are now."""
    if row.operator_status != AccountStatus.ACTIVE:
        return Access(AccountStatus(row.operator_status), row.operator_reason)
    if row.ledger < 0 and _has_open_claim(c, row.account):
        return Access(AccountStatus.SUSPENDED, DISPUTED)
    if _is_in_grace(c, row.account):
        return Access(AccountStatus.GRACE, RENEWAL_FAILED)
    return Access(AccountStatus.ACTIVE, row.operator_reason)


def doubtful(c: Connection) -> dict[str, str]:
    """Return the accounts that a dispute suspends, or has to, and the status of each.

    Credits that came since may lift a suspension; usage that the ledger learns of only now may have
    taken an account below zero, after a bank took a payment of it back.
    """
    return {row.account: row.status for row in c.execute(_DOUBTFUL)}


def _has_open_claim(c: Connection, account: str) -> bool:
    return bool(c.scalar(_OPEN_CLAIM, {"account": account}))


def _is_in_grace(c: Connection, account: str) -> bool:
    found = subscriptions.c
    query = select(found.subscription).where(found.account == account, found.state == "grace")
    return c.execute(query.limit(1)).first() is not None


def _tell(c: Connection, before: AccountRow, access: Access, now_ms: int) -> None:
    was_suspended = before.status is AccountStatus.SUSPENDED
    is_suspended = access.status is AccountStatus.SUSPENDED
    if was_suspended == is_suspended:
        return
    kind = AlertKind.ACCOUNT_SUSPENDED if is_suspended else AlertKind.ACCOUNT_RESUMED
    data = {"status": access.status.value, "reason": access.reason}
    # The row is locked, and its last change names the moment.
    key = f"{before.updated_ms}:{now_ms}"
    raise_alert(c, kind, before.account, data, key=key, now_ms=now_ms)


_OPEN_CLAIM: Final = text(
    """
    SELECT EXISTS (
        SELECT FROM stripe_payments p
        JOIN stripe_disputes d ON d.payment_intent = p.payment_intent OR d.charge = p.charge
        WHERE p.account = :account AND d.is_withdrawn AND NOT d.is_forgiven)
    """
)

_DOUBTFUL: Final = text(
    """
    SELECT a.account, a.status FROM accounts a
    WHERE a.operator_status = 'active' AND a.status = 'suspended'
    UNION
    SELECT a.account, a.status FROM stripe_disputes d
    JOIN stripe_payments p ON d.payment_intent = p.payment_intent OR d.charge = p.charge
    JOIN accounts a ON a.account = p.account AND a.operator_status = 'active'
    WHERE d.is_withdrawn AND NOT d.is_forgiven AND (
        SELECT sum(l.balance) FROM ledger_accounts l
        WHERE l.account = a.account AND l.kind IN ('available', 'lent')) < 0
    """
)
