"""The lines of a paid invoice that give an allowance, with what their plans say of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import RowMapping, select

from persistence.plan_tables import stripe_invoices as invoices
from sidecar.billing.applying import Applying
from sidecar.billing.errors import EventNotUnderstood
from sidecar.billing.fields import id_of, instant_ms, integer, optional_id, shown
from sidecar.billing.periods import DAY_MS, PaidLine
from sidecar.billing.plans import get_plan, no_plan
from sidecar.domain import MAX_AMOUNT

_RENEWALS: Final = ("subscription_create", "subscription_cycle")
_UPDATE: Final = "subscription_update"
_ITEM: Final = "subscription_item_details"
_KINDS: Final = (_ITEM, "invoice_item_details")
_LONGEST_MS: Final = 11 * 366 * DAY_MS  # the loop over its months ends


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line says that counts; `details` is the part that says where it comes from."""

    details: dict[str, Any]
    is_proration: bool
    price: str
    quantity: int
    amount: int
    starts_ms: int
    ends_ms: int


def paid_lines(one: Applying, row: RowMapping, account: str, reason: str) -> list[PaidLine]:
    """Return what the lines of a paid invoice of a subscription (`row`) are worth.

    Raises `EventNotUnderstood`, also when a price has no plan.
    """
    if reason not in (*_RENEWALS, _UPDATE):
        return []
    sums: dict[tuple[str, str, int, int, int], tuple[int, bool]] = {}
    for line in _lines(one, is_update=reason == _UPDATE):
        if line.is_proration:
            item = _changed_item(one, row, line)
            starts_ms = _start_of_period(one, row, item, line)
        else:
            item, starts_ms = _item_of(line.details), line.starts_ms
        # One item has several lines when its price has tiers: each has its part of the quantity.
        key = (item, line.price, starts_ms, line.ends_ms, line.starts_ms)
        quantity, _ = sums.get(key, (0, False))
        sums[key] = (quantity + line.quantity, _is_trial(row, line))
    return [_worth(one, account, *key, *value) for key, value in sums.items()]


def _worth(
    one: Applying,
    account: str,
    item: str,
    price: str,
    starts_ms: int,
    ends_ms: int,
    at_ms: int,
    quantity: int,
    is_trial: bool,
) -> PaidLine:
    plan = get_plan(one.c, price)
    if plan is None:
        raise EventNotUnderstood(no_plan(price))
    full = quantity * int(plan["trial_allowance" if is_trial else "allowance"])
    if full > MAX_AMOUNT:
        raise EventNotUnderstood(f"{quantity} times the plan of {price} is more than 2^53-1")
    return PaidLine(
        item=item,
        price=price,
        quantity=quantity,
        starts_ms=starts_ms,
        ends_ms=ends_ms,
        at_ms=at_ms,
        paid_ms=_paid_ms(one),
        full=full,
        is_prorated=plan["upgrade_allowance"] == "prorated",
        is_monthly=plan["allowance_interval"] == "month",
        is_trial=is_trial,
        grace_ms=int(plan["grace_days"]) * DAY_MS,
        rollover_cap=int(plan["rollover_cap"]),
        account=account,
        invoice=one.subject["id"],
    )


def _paid_ms(one: Applying) -> int:
    """Return when an invoice was paid; a clock that Stripe tests with may be ahead of ours."""
    moments = one.subject.get("status_transitions")
    paid_at = moments.get("paid_at") if isinstance(moments, dict) else None
    return one.now_ms if paid_at is None else min(instant_ms(paid_at, "paid_at"), one.now_ms)


def _lines(one: Applying, *, is_update: bool) -> Iterator[_Line]:
    """Yield the lines that count: of items, and of changes to them when it is an update."""
    lines = one.subject.get("lines")
    if not isinstance(lines, dict) or not isinstance(lines.get("data"), list):
        raise EventNotUnderstood("the invoice has no list of lines")
    found = lines["data"]
    if lines.get("has_more"):
        found = one.api.every(f"/v1/invoices/{one.subject['id']}/lines")
    for line in found:
        parent = line.get("parent")
        kind = parent.get("type") if isinstance(parent, dict) else None
        details = parent.get(kind) if isinstance(parent, dict) and kind in _KINDS else None
        if not isinstance(details, dict):
            continue
        is_proration = details.get("proration") is True
        is_change = is_update and is_proration and not _is_credit(details, line.get("amount"))
        if is_change or (kind == _ITEM and not is_proration):
            yield _line(details, is_proration, line)


def _is_credit(details: dict[str, Any], amount: Any) -> bool:
    """Tell whether a proration gives back what was paid for before."""
    more = details.get("proration_details")
    credited = more.get("credited_items") if isinstance(more, dict) else None
    return credited is not None or (isinstance(amount, int) and amount < 0)


def _line(details: dict[str, Any], is_proration: bool, line: dict[str, Any]) -> _Line:
    period = line.get("period")
    if not isinstance(period, dict):
        raise EventNotUnderstood(f"the period of a line is {shown(period)}")
    amount = line.get("amount")
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise EventNotUnderstood(f"the amount of a line is {shown(amount)}")
    starts_ms = instant_ms(period.get("start"), "the start of a line's period")
    ends_ms = instant_ms(period.get("end"), "the end of a line's period")
    if not 0 < ends_ms - starts_ms <= _LONGEST_MS:
        raise EventNotUnderstood(f"a line's period is {ends_ms - starts_ms} ms long")
    return _Line(
        details=details,
        is_proration=is_proration,
        price=_price(line),
        quantity=integer(line.get("quantity"), "the quantity of a line"),
        amount=amount,
        starts_ms=starts_ms,
        ends_ms=ends_ms,
    )


def _price(line: dict[str, Any]) -> str:
    pricing = line.get("pricing")
    details = pricing.get("price_details") if isinstance(pricing, dict) else None
    price = details.get("price") if isinstance(details, dict) else None
    return id_of(price, "the price of a line")


def _item_of(details: dict[str, Any]) -> str:
    return id_of(details.get("subscription_item"), "the subscription_item of a line")


def _is_trial(row: RowMapping, line: _Line) -> bool:
    """Tell a trial's line: it costs nothing, and its period begins in the trial.

    It may end after it: a trial can be cut short when its invoice was made long ago.
    """
    starts_ms, ends_ms = row["trial_starts_ms"], row["trial_ends_ms"]
    if line.amount != 0 or starts_ms is None or ends_ms is None:
        return False
    return bool(starts_ms <= line.starts_ms < max(ends_ms, starts_ms + 1))


def _changed_item(one: Applying, row: RowMapping, line: _Line) -> str:
    """Return the item that a proration is about; an invoice item's line does not name it."""
    named = optional_id(line.details.get("subscription_item"))
    if named is not None:
        return named
    items = [item["item"] for item in row["items"] if item["price"] == line.price]
    if len(items) == 1:
        return str(items[0])
    if len(row["items"]) == 1:
        return str(row["items"][0]["item"])
    id = id_of(line.details.get("invoice_item"), "the invoice_item of a line")
    parent = one.api.get(f"/v1/invoiceitems/{id}").get("parent")
    details = parent.get("subscription_details") if isinstance(parent, dict) else None
    return _item_of(details if isinstance(details, dict) else {})


def _start_of_period(one: Applying, row: RowMapping, item: str, line: _Line) -> int:
    """Return when the period began in which an item was changed: the latest with the same end.

    An item that is new then begins with the others, although its own period begins with the line.
    """
    query = select(invoices.c.lines).where(
        invoices.c.subscription == row["subscription"], invoices.c.is_paid
    )
    known = [each for lines in one.c.scalars(query) for each in lines]
    others = [each for each in row["items"] if each["item"] != item]
    own = [each for each in row["items"] if each["item"] == item]
    starts = [
        each["starts_ms"]
        for each in [*known, *others, *(each for each in own if each["starts_ms"] < line.starts_ms)]
        if each["ends_ms"] == line.ends_ms and each["starts_ms"] <= line.starts_ms
    ]
    before = [start for start in starts if start < line.starts_ms]
    if not starts:
        raise EventNotUnderstood(
            f"the period until {line.ends_ms} is not known yet: none of its invoices was applied"
        )
    return int(max(before or starts))
