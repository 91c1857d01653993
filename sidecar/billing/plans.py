"""Plans: what a recurring Stripe price gives for each unit and period."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from persistence.cursors import Page, decode_cursor, page_of
from persistence.plan_tables import plans
from persistence.stripe_tables import stripe_events
from sidecar.domain import MAX_AMOUNT, is_id
from sidecar.errors import ErrorCode, Refusal

DEFAULTS: Final[dict[str, Any]] = {
    "grace_days": 3,
    "rollover_cap": 0,
    "upgrade_allowance": "prorated",
    "allowance_interval": "period",
    "trial_allowance": 0,
}
"""What a field has when it is cleared or was never set; `allowance` has none."""

CHANGEABLE: Final = frozenset({"allowance", *DEFAULTS})
"""What `put_plan` may set."""

_RANGES: Final = {
    "allowance": (1, MAX_AMOUNT),
    "grace_days": (0, 365),
    "rollover_cap": (0, MAX_AMOUNT),
    "trial_allowance": (0, MAX_AMOUNT),
}
_WORDS: Final = {
    "upgrade_allowance": ("prorated", "full"),
    "allowance_interval": ("period", "month"),
}
_SHOWN: Final = tuple(column for column in plans.c if column.name != "no")


def put_plan(
    c: Connection, stripe_price: str, changes: Mapping[str, Any], now_ms: int
) -> dict[str, Any]:
    """Make the plan of a price or change it, and return it as it now is.

    Fields that `changes` lacks stay as they are, None sets one to its default. What was granted
    before stays as it was: a plan counts when an invoice is paid. Invoices that failed for want
    of this plan are applied soon after it is made. Raises `Refusal` (422) for another field, a
    value out of range, and a new plan without an `allowance`.
    """
    values = _checked(stripe_price, changes)
    row = _change(c, stripe_price, values, now_ms)
    if row is not None:
        return row
    if "allowance" not in values:
        raise _refused("allowance", "A new plan needs an allowance: 1 … 2^53-1 microcredits.")
    first = values | {"stripe_price": stripe_price, "created_ms": now_ms, "updated_ms": now_ms}
    c.execute(insert(plans).values(first).on_conflict_do_nothing())
    made = _change(c, stripe_price, values, now_ms)
    assert made is not None
    _wake_events(c, stripe_price, now_ms)
    return made


def no_plan(stripe_price: str) -> str:
    """Return the error of events that wait for the plan of a price."""
    return f"there is no plan for the price {stripe_price}"


def get_plan(c: Connection, stripe_price: str) -> dict[str, Any] | None:
    """Return the plan of a price, or None when there is none."""
    query = select(*_SHOWN).where(plans.c.stripe_price == stripe_price)
    row = c.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def list_plans(c: Connection, limit: int, cursor: str | None = None) -> Page[dict[str, Any]]:
    """Return a page of the plans, newest first. Raises `Refusal` (422) for a bad cursor."""
    query = select(plans).order_by(plans.c.no.desc()).limit(limit + 1)
    if cursor is not None:
        (before,) = decode_cursor(cursor, 1)
        query = query.where(plans.c.no < before)
    rows = [dict(row) for row in c.execute(query).mappings()]
    page = page_of(rows, limit, lambda row: (row["no"],))
    for row in page.rows:
        del row["no"]
    return page


def _wake_events(c: Connection, stripe_price: str, now_ms: int) -> None:
    """Make the events due that failed for want of the plan, those that were given up too."""
    waiting = (
        update(stripe_events)
        .where(stripe_events.c.status.in_(("failed", "dead")))
        .where(stripe_events.c.error == no_plan(stripe_price))
        .values(status="pending", attempts=0, due_ms=now_ms, finished_ms=None)
    )
    c.execute(waiting)


def _change(
    c: Connection, stripe_price: str, values: dict[str, Any], now_ms: int
) -> dict[str, Any] | None:
    changed = (
        update(plans)
        .where(plans.c.stripe_price == stripe_price)
        .values(values | {"updated_ms": now_ms})
        .returning(*_SHOWN)
    )
    row = c.execute(changed).mappings().one_or_none()
    return None if row is None else dict(row)


def _checked(stripe_price: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    if not is_id(stripe_price):
        raise _refused("stripe_price", "Not the id of a price.")
    values = {}
    for field, value in changes.items():
        if field not in CHANGEABLE:
            raise _refused(field, f"Unknown field {field}.")
        values[field] = DEFAULTS.get(field) if value is None else value
        _check(field, values[field])
    return values


def _check(field: str, value: Any) -> None:
    if field in _WORDS:
        if value not in _WORDS[field]:
            raise _refused(field, f"One of {', '.join(_WORDS[field])}.")
        return
    least, most = _RANGES[field]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        shown = "2^53-1" if most == MAX_AMOUNT else most
        raise _refused(field, f"An integer, {least} … {shown}.")


def _refused(field: str, message: str) -> Refusal:
    return Refusal(ErrorCode.INVALID_REQUEST, message, param=field)
