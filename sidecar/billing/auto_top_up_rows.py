"""The rows of auto top-up: settings and attempts, read and changed under the settings' lock.

Locks are taken in this order: the account, its settings, its attempt.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, func, select, update

from persistence.money_tables import orders
from persistence.top_up_tables import auto_top_up_attempts as attempts
from persistence.top_up_tables import auto_top_ups as settings
from sidecar.billing.alerts import AlertKind, raise_alert
from sidecar.billing.auto_top_up_plan import Month
from sidecar.billing.declines import TOO_MANY, Decline, wait_ms

IN_FLIGHT: Final = ("pending", "unknown", "charged")
"""Statuses of attempts that may still take money, or have and gave no credits yet."""

BANK_REASONS: Final = frozenset({"dispute", "fraud_warning"})
"""Pauses because a bank doubts a payment: another card does not end them."""

INTERVAL_MS: Final = 60_000
_FIRST_FAILURE_MS: Final = 600_000
_LONGEST_FAILURE_MS: Final = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Setting:
    """The auto top-up of one account; amounts in microcredits, instants in Unix milliseconds."""

    account: str
    is_enabled: bool
    threshold: int
    amount: int
    monthly_cap: int | None
    paused_reason: str | None
    resumed_ms: int
    declines: int
    failures: int
    next_ms: int
    due_ms: int | None
    created_ms: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One charge that is tried: `parameters` is the JSON that is sent, the same each time."""

    id: str
    account: str
    order_id: str
    status: str
    parameters: str
    tries: int
    payment_intent: str | None
    first_try_ms: int | None
    due_ms: int
    created_ms: int

    @property
    def is_in_flight(self) -> bool:
        """Whether it may still take money, or has and gave no credits yet."""
        return self.status in IN_FLIGHT


_SETTING: Final = tuple(settings.c[name] for name in Setting.__dataclass_fields__)
_ATTEMPT: Final = tuple(attempts.c[name] for name in Attempt.__dataclass_fields__)


def claim_due(c: Connection, now_ms: int, claim_ms: int) -> Setting | None:
    """Return settings that are due and that no other worker has, if any; they are due again later.

    So what a worker that dies was looking at is looked at by another one.
    """
    query = select(*_SETTING).where(settings.c.due_ms <= now_ms).order_by(settings.c.due_ms)
    row = c.execute(query.limit(1).with_for_update(skip_locked=True)).mappings().one_or_none()
    if row is None:
        return None
    change_setting(c, row["account"], now_ms, due_ms=now_ms + claim_ms)
    return Setting(**row)


def lock_setting(c: Connection, account: str) -> Setting | None:
    """Lock and return the settings of an account, or None when it has none."""
    query = select(*_SETTING).where(settings.c.account == account).with_for_update()
    row = c.execute(query).mappings().one_or_none()
    return None if row is None else Setting(**row)


def lock_attempt(c: Connection, id: str) -> Attempt | None:
    """Lock and return an attempt; the caller has locked its account's settings, if any."""
    return _attempt(c, attempts.c.id == id)


def lock_attempt_of(c: Connection, order_id: str) -> Attempt | None:
    """Lock and return the attempt of an order, or None: the order was not ours."""
    return _attempt(c, attempts.c.order_id == order_id)


def account_of_order(c: Connection, order_id: str) -> str | None:
    """Return whose attempt an order is of, or None: without a lock, to take those in order."""
    query = select(attempts.c.account).where(attempts.c.order_id == order_id)
    found: str | None = c.scalar(query)
    return found


def has_in_flight(c: Connection, account: str) -> bool:
    """Tell whether an attempt of an account may still take money, or gave no credits yet."""
    query = select(attempts.c.id).where(
        attempts.c.account == account, attempts.c.status.in_(IN_FLIGHT)
    )
    return c.execute(query.limit(1)).first() is not None


def last_begun_ms(c: Connection, account: str) -> int:
    """Return when the last attempt of an account was begun; 0: never."""
    query = select(func.max(attempts.c.created_ms)).where(attempts.c.account == account)
    return c.scalar(query) or 0


def bought(c: Connection, account: str, month: Month) -> int:
    """Return the microcredits that an account bought by itself in a month, or is about to."""
    query = (
        select(func.coalesce(func.sum(orders.c.credits), 0))
        .join_from(attempts, orders, attempts.c.order_id == orders.c.id)
        .where(
            attempts.c.account == account,
            attempts.c.created_ms >= month.start_ms,
            attempts.c.created_ms < month.end_ms,
            attempts.c.status.in_((*IN_FLIGHT, "succeeded")),
        )
    )
    return int(c.scalar(query) or 0)


def count_in_flight(c: Connection) -> dict[str, int]:
    """Return how many attempts are in flight, by status."""
    query = select(attempts.c.status, func.count()).where(attempts.c.status.in_(IN_FLIGHT))
    found = c.execute(query.group_by(attempts.c.status))
    return dict.fromkeys(IN_FLIGHT, 0) | {status: count for status, count in found}


def add_attempt(c: Connection, account: str, order_id: str, parameters: str, now_ms: int) -> None:
    """Add an attempt, to be sent at once. The index refuses a second one in flight."""
    row = {
        "id": f"attempt_{uuid.uuid4().hex}",
        "account": account,
        "order_id": order_id,
        "status": "pending",
        "parameters": parameters,
        "due_ms": now_ms,
        "created_ms": now_ms,
        "updated_ms": now_ms,
    }
    c.execute(attempts.insert().values(row))


def change_setting(c: Connection, account: str, now_ms: int, **values: Any) -> None:
    """Change the settings of an account."""
    change = update(settings).where(settings.c.account == account)
    c.execute(change.values(values | {"updated_ms": now_ms}))


def change_attempt(c: Connection, id: str, now_ms: int, **values: Any) -> None:
    """Change an attempt."""
    change = update(attempts).where(attempts.c.id == id)
    c.execute(change.values(values | {"updated_ms": now_ms}))


def succeed(c: Connection, one: Attempt, payment_intent: str, now_ms: int) -> None:
    """Mark an attempt whose credits are granted; what was counted against the card is over."""
    change_attempt(c, one.id, now_ms, status="succeeded", payment_intent=payment_intent, error=None)
    # Looked at again: more may have been used meanwhile than was bought.
    values = {"declines": 0, "failures": 0, "next_ms": 0, "due_ms": now_ms}
    change_setting(c, one.account, now_ms, **values)


def decline(
    c: Connection, one: Attempt, why: Decline, now_ms: int, *, payment_intent: str | None = None
) -> None:
    """End an attempt that the bank refused: wait, or pause when another try is of no use."""
    change_attempt(
        c,
        one.id,
        now_ms,
        status="declined",
        error=f"{why.reason}: {why.message}",
        payment_intent=payment_intent or one.payment_intent,
    )
    data = {
        "attempt": one.id,
        "order_id": one.order_id,
        "payment_intent": payment_intent or one.payment_intent,
        "reason": why.reason,
        "message": why.message,
    }
    raise_alert(c, AlertKind.TOP_UP_FAILED, one.account, data, key=one.id, now_ms=now_ms)
    setting = lock_setting(c, one.account)
    if setting is None:
        return
    declines = setting.declines + 1
    delay_ms = wait_ms(declines)
    if why.final_reason is None and delay_ms is not None:
        again_ms = now_ms + delay_ms
        change_setting(c, one.account, now_ms, declines=declines, next_ms=again_ms, due_ms=again_ms)
        return
    change_setting(c, one.account, now_ms, declines=declines)
    pause(c, setting, why.final_reason or TOO_MANY, now_ms)


def fail(c: Connection, one: Attempt, error: str, now_ms: int, *, status: str = "failed") -> None:
    """End an attempt of which nothing came, not by the bank's will: try a new one later."""
    change_attempt(c, one.id, now_ms, status=status, error=error[:500])
    setting = lock_setting(c, one.account)
    if setting is not None:
        wait_after_failure(c, setting, now_ms)


def wait_after_failure(c: Connection, setting: Setting, now_ms: int) -> None:
    """Put off the next attempt: ten minutes, and twice as long after each failure in a row."""
    delay_ms = min(_FIRST_FAILURE_MS * 2 ** min(setting.failures, 10), _LONGEST_FAILURE_MS)
    again_ms, failures = now_ms + delay_ms, setting.failures + 1
    values = {"failures": failures, "next_ms": again_ms, "due_ms": again_ms}
    change_setting(c, setting.account, now_ms, **values)


def pause(c: Connection, setting: Setting, reason: str, now_ms: int) -> None:
    """Stop the auto top-up of an account until somebody acts, and tell the product.

    The reason that a bank has stands above the others; otherwise the first one stays.
    """
    was = setting.paused_reason
    if was is not None and (was in BANK_REASONS or reason not in BANK_REASONS):
        return
    change_setting(c, setting.account, now_ms, paused_reason=reason, paused_ms=now_ms, due_ms=None)
    key, data = f"{now_ms}:{reason}", {"reason": reason}
    raise_alert(c, AlertKind.AUTO_TOP_UP_PAUSED, setting.account, data, key=key, now_ms=now_ms)


def resume(c: Connection, setting: Setting, because: str, now_ms: int) -> None:
    """Let the auto top-up of an account go on, if it was stopped; forget what it waited for."""
    change_setting(
        c,
        setting.account,
        now_ms,
        paused_reason=None,
        paused_ms=None,
        resumed_ms=now_ms,
        declines=0,
        failures=0,
        next_ms=0,
        due_ms=now_ms if setting.is_enabled else None,
    )
    if setting.paused_reason is None:
        return
    key, data = f"{now_ms}:{because}", {"reason": because, "was": setting.paused_reason}
    raise_alert(c, AlertKind.AUTO_TOP_UP_RESUMED, setting.account, data, key=key, now_ms=now_ms)


def _attempt(c: Connection, which: ColumnElement[bool]) -> Attempt | None:
    row = c.execute(select(*_ATTEMPT).where(which).with_for_update()).mappings().one_or_none()
    return None if row is None else Attempt(**row)
