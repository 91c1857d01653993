"""The settings of auto top-up, as people save and see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from persistence import accounts
from persistence.errors import AccountUnknown
from persistence.top_up_tables import auto_top_up_attempts as attempts
from persistence.top_up_tables import auto_top_ups as settings
from persistence.watching import watch
from sidecar.billing import auto_top_up_hooks
from sidecar.billing.auto_top_up_order import check_amount
from sidecar.domain import MAX_AMOUNT
from sidecar.errors import ErrorCode, Refusal

CHANGEABLE: Final = frozenset({"is_enabled", "threshold", "amount", "monthly_cap"})
"""What `put_auto_top_up` may set; only `monthly_cap` can be None: no cap."""

_SHOWN: Final = (
    settings.c.is_enabled,
    settings.c.threshold,
    settings.c.amount,
    settings.c.monthly_cap,
    settings.c.paused_reason,
    settings.c.paused_ms,
    settings.c.declines,
    settings.c.next_ms,
    settings.c.updated_ms,
)


def put_auto_top_up(
    c: Connection, account: str, changes: Mapping[str, Any], now_ms: int
) -> dict[str, Any]:
    """Save the settings of an account and return them as they are now; a pause ends.

    Fields that `changes` lacks stay as they are; a first time needs all but `monthly_cap`, and
    `is_enabled` is true then unless it says otherwise. Raises `AccountUnknown`, and `Refusal`
    (422) for another field, a value out of range, a cap that is less than one amount, and, unless
    it is switched off, an amount whose price is below the minimum.
    """
    if accounts.get_account(c, account, for_update=True) is None:
        raise AccountUnknown(account)
    known = get_auto_top_up(c, account) or {"is_enabled": True, "monthly_cap": None}
    values = _checked({name: known[name] for name in CHANGEABLE if name in known} | dict(changes))
    if values["is_enabled"]:
        check_amount(c, values["amount"])
    times = {"created_ms": now_ms, "updated_ms": now_ms}
    new = insert(settings).values(values | times | {"account": account})
    saved = values | {"updated_ms": now_ms}
    c.execute(new.on_conflict_do_update(index_elements=["account"], set_=saved))
    threshold = values["threshold"] if values["is_enabled"] else None
    accounts.set_top_up_threshold(c, account, threshold)
    auto_top_up_hooks.on_saved(c, account, now_ms)
    watch(c, [account], now_ms)
    found = get_auto_top_up(c, account)
    assert found is not None
    return found


def get_auto_top_up(c: Connection, account: str) -> dict[str, Any] | None:
    """Return the settings of an account and why they are paused, or None when it has none."""
    row = c.execute(select(*_SHOWN).where(settings.c.account == account)).mappings().one_or_none()
    return None if row is None else dict(row)


def list_attempts(c: Connection, account: str, limit: int = 20) -> list[dict[str, Any]]:
    """Return the last attempts of an account, newest first: what was tried, what came of it."""
    names = ("id", "order_id", "status", "tries", "payment_intent", "error", "created_ms")
    query = select(*(attempts.c[name] for name in names)).where(attempts.c.account == account)
    newest = query.order_by(attempts.c.created_ms.desc(), attempts.c.id).limit(limit)
    return [dict(row) for row in c.execute(newest).mappings()]


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    for field in values:
        if field not in CHANGEABLE:
            raise _refused(field, f"Unknown field {field}.")
    for field in ("threshold", "amount"):
        _check_amount(field, values.get(field))
    cap = values["monthly_cap"]
    if cap is not None:
        _check_amount("monthly_cap", cap)
        if cap < values["amount"]:
            raise _refused("monthly_cap", "At least one amount, or null for no cap.")
    if not isinstance(values["is_enabled"], bool):
        raise _refused("is_enabled", "True or false.")
    return values


def _check_amount(field: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_AMOUNT:
        raise _refused(field, "An integer, 1 … 2^53-1 microcredits.")


def _refused(field: str, message: str) -> Refusal:
    return Refusal(ErrorCode.INVALID_REQUEST, message, param=field)
