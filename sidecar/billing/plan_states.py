"""What a subscription gives now: its state, by its status, by what was paid, and by the clock.

| Stripe's status                 | state       | its allowances                              |
|---------------------------------|-------------|---------------------------------------------|
| `active`, `trialing`            | `active`    | given as they are paid                      |
| `past_due`                      | `grace`     | the last one lives to its end and its grace |
| `past_due`, and that is over    | `suspended` | ended                                       |
| `unpaid`, `paused`              | `suspended` | ended at once                               |
| `incomplete`                    | `suspended` | none yet                                    |
| `canceled`, `incomplete_expired`| `ended`     | ended at once, and none is given any more   |

A subscription whose collection is paused (`pause_collection`) stays `active`: its invoices are not
paid, so nothing more is given, and what was given lives to its end.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, RowMapping, select, update

from persistence.errors import GrantConflict, TotalExceeded
from persistence.plan_tables import plans, stripe_invoices
from persistence.plan_tables import stripe_subscriptions as subscriptions
from persistence.tables import accounts
from sidecar.billing import access, allowances
from sidecar.billing.alerts import AlertKind, raise_alert
from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.periods import PaidLine, Period, periods_of
from sidecar.domain import AccountStatus

ACTIVE: Final = "active"
GRACE: Final = "grace"
SUSPENDED: Final = "suspended"
ENDED: Final = "ended"
RUNNING: Final = (ACTIVE, GRACE)
"""States in which a subscription gives what is paid."""

FINAL: Final = frozenset({"canceled", "incomplete_expired"})
"""Statuses that a subscription never leaves."""

_STATES: Final = {
    "active": ACTIVE,
    "trialing": ACTIVE,
    "past_due": GRACE,
    "unpaid": SUSPENDED,
    "paused": SUSPENDED,
    "incomplete": SUSPENDED,
    "canceled": ENDED,
    "incomplete_expired": ENDED,
}
STATUSES: Final = frozenset(_STATES)


def state_of(status: str, grace_until_ms: int | None, now_ms: int) -> str:
    """Return the state of a subscription; grace ends with the last allowance that was paid."""
    state = _STATES[status]
    if state == GRACE and (grace_until_ms is None or grace_until_ms <= now_ms):
        return SUSPENDED
    return state


def settle(c: Connection, subscription: str, now_ms: int) -> None:
    """Derive what a subscription gives of all facts, and do what is missing for it.

    Its row must be locked. Raises `EventNotUnderstood` when an account can hold no more.
    """
    query = select(subscriptions).where(subscriptions.c.subscription == subscription)
    row = c.execute(query).mappings().one()
    known = allowances.record(c, subscription, _periods(c, row), now_ms)
    grace_until_ms = _grace_until_ms(known, now_ms)
    state = state_of(row["status"], grace_until_ms, now_ms)
    before = [(one.granted, one.ended_ms) for one in known]
    try:
        if state in RUNNING:
            allowances.give(c, known, now_ms)
        else:
            allowances.end(c, known, now_ms, for_good=state == ENDED)
    except (GrantConflict, TotalExceeded) as error:
        raise EventNotUnderstood(str(error)) from error
    has_moved = before != [(one.granted, one.ended_ms) for one in known]
    _move(c, row, state, grace_until_ms, now_ms)
    status = c.scalar(select(accounts.c.status).where(accounts.c.account == row["account"]))
    if status is None:
        return
    # Locking the account for nothing would let the events of its plans wait for each other.
    is_grace_known = (state == GRACE) == (status == AccountStatus.GRACE)
    if has_moved or state != row["state"] or not is_grace_known:
        access.refresh(c, row["account"], now_ms)
    _tell(c, row, state, grace_until_ms, now_ms)


def _periods(c: Connection, row: RowMapping) -> list[Period]:
    query = select(stripe_invoices.c.lines).where(
        stripe_invoices.c.subscription == row["subscription"], stripe_invoices.c.is_paid
    )
    lines = [PaidLine(**line) for found in c.scalars(query) for line in found]
    return periods_of(lines, _ceilings(c, row["items"], lines)) if lines else []


def _ceilings(c: Connection, items: list[dict[str, Any]], lines: list[PaidLine]) -> dict[str, int]:
    """Return what each item has now, for a whole period: by what its plan said when it was paid.

    The plan as it is now says it of a price that was never paid.
    """
    query = select(plans.c.stripe_price, plans.c.allowance).where(
        plans.c.stripe_price.in_([item["price"] for item in items])
    )
    units = {price: int(allowance) for price, allowance in c.execute(query)}
    for line in sorted(lines, key=lambda line: line.paid_ms):
        if line.quantity and not line.is_trial:
            units[line.price] = line.full // line.quantity
    return {item["item"]: units.get(item["price"], 0) * item["quantity"] for item in items}


def _grace_until_ms(known: list[allowances.Allowance], now_ms: int) -> int | None:
    """Return when the last allowance that was paid ends; of an item, it ended those before it."""
    paid = [one for one in known if one.target > 0 and one.due_ms <= now_ms]
    last = {one.subscription_item: one.expires_ms for one in paid}  # they are in order
    return max(last.values(), default=None)


def _move(
    c: Connection, row: RowMapping, state: str, grace_until_ms: int | None, now_ms: int
) -> None:
    values = {
        "state": state,
        "grace_until_ms": grace_until_ms if state == GRACE else None,
        "has_run": row["has_run"] or state in RUNNING,
        "changes": row["changes"] + (row["state"] != state),
    }
    if values != {name: row[name] for name in values}:
        one = subscriptions.c.subscription == row["subscription"]
        c.execute(update(subscriptions).where(one).values(values | {"updated_ms": now_ms}))


def _tell(
    c: Connection, row: RowMapping, state: str, grace_until_ms: int | None, now_ms: int
) -> None:
    """Tell the product of what began and what is over."""
    data = {
        "subscription": row["subscription"],
        "status": row["status"],
        "state": state,
        "grace_until_ms": grace_until_ms if state == GRACE else row["grace_until_ms"],
    }
    # The row is locked and counts its changes: that names the happening.
    key = f"{row['subscription']}:{row['changes'] + 1}"
    for kind in kinds_of_change(row["state"], state, has_run=row["has_run"]):
        raise_alert(c, kind, row["account"], data, key=key, now_ms=now_ms)


def kinds_of_change(before: str, after: str, *, has_run: bool) -> list[AlertKind]:
    """Return what there is to tell when the state of a subscription changes."""
    kinds = []
    if before == after:
        return []
    if after == GRACE:
        kinds.append(AlertKind.GRACE_STARTED)
    if before == GRACE:
        kinds.append(AlertKind.GRACE_ENDED)
    if before in RUNNING and after not in RUNNING:
        kinds.append(AlertKind.PLAN_SUSPENDED)
    if has_run and before not in RUNNING and after in RUNNING:
        kinds.append(AlertKind.PLAN_RESUMED)
    return kinds
