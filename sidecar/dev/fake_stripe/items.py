"""The items of a subscription: what is subscribed to, for which period, and what a change costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sidecar.dev.fake_stripe import catalogue
from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure, missing
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.lists import page
from sidecar.dev.fake_stripe.periods import period_end
from sidecar.dev.fake_stripe.shapes import billing as shapes
from sidecar.dev.fake_stripe.state import Cause, Object, State


@dataclass(frozen=True, slots=True)
class Wish:
    """An item as a request wants it; of an `id` that is None, a new one."""

    id: str | None
    price: Object | None
    quantity: int | None
    metadata: dict[str, str]
    is_deleted: bool


def take(state: State, form: Form, cause: Cause) -> list[Wish]:
    """Take `items`. Raises `StripeFailure`."""
    return [_take(state, part, cause) for part in form.parts("items")]


def add(state: State, subscription: Object, wish: Wish, start: int, end: int | None) -> Object:
    """Add an item whose period is `start` to `end`, or one interval of its own."""
    if wish.price is None:
        raise StripeFailure("Give the new item a price.", param="items[0][price]")
    if wish.price["recurring"] is None:
        raise StripeFailure("The price of an item must be recurring.", param="items[0][price]")
    quantity = 1 if wish.quantity is None else wish.quantity
    item = state.add(shapes.item(state, subscription, wish.price, quantity))
    item["metadata"] = wish.metadata
    set_period(subscription, item, start, end)
    items = subscription["items"]
    items["data"] = [*items["data"], item]
    items["total_count"] = len(items["data"])
    return item


def set_period(subscription: Object, item: Object, start: int, end: int | None = None) -> None:
    """Let the period of an item begin; it ends at `end`, or at its next boundary."""
    anchor = subscription["billing_cycle_anchor"]
    end = end or period_end(anchor, item["price"]["recurring"], start)
    item.update(current_period_start=start, current_period_end=end)


def renewal_line(state: State, item: Object, *, is_free: bool = False) -> Object:
    """Return the line for the whole of an item's period."""
    amount = 0 if is_free else item["price"]["unit_amount"] * item["quantity"]
    start, end = item["current_period_start"], item["current_period_end"]
    return shapes.line(state, item, amount, start, end, proration=False)


def proration_line(state: State, item: Object, *, is_credit: bool) -> Object:
    """Return what the rest of an item's period is worth: a credit for it, or a charge."""
    start, end = item["current_period_start"], item["current_period_end"]
    now = min(max(state.now(), start), end)
    full = item["price"]["unit_amount"] * item["quantity"]
    share = _rounded(full * (end - now), end - start)
    amount = -share if is_credit else share
    line = shapes.line(state, item, amount, now, end, proration=True)
    text = "Unused time on" if is_credit else "Remaining time on"
    return line | {"description": f"{text} {line['description']}"}


def next_boundary(subscription: Object) -> int:
    """Return when the next period of any item ends."""
    return min(int(item["current_period_end"]) for item in subscription["items"]["data"])


def listed(call: Call) -> Object:
    """List the items of a subscription."""
    subscription = call.state.get("subscription", call.form.required("subscription"))
    return page(call.form, "/v1/subscription_items", subscription["items"]["data"][::-1])


class Change:
    """A change of items: it is made on copies, so that the subscription's old ones stay whole."""

    def __init__(self, state: State, subscription: Object, wishes: Iterable[Wish]) -> None:
        self._state = state
        self._subscription = subscription
        self._wishes = list(wishes)
        self.prorations: list[Object] = []
        self.renewed: list[Object] = []
        """The items that begin a new period at once, for their interval is another one."""

    def make(self) -> None:
        """Make the change. Raises `StripeFailure` for an item that is not there."""
        for wish in self._wishes:
            self._make(wish)
        if not self._subscription["items"]["data"]:
            raise StripeFailure("A subscription must have at least one item.", param="items")

    def _make(self, wish: Wish) -> None:
        if wish.id is None:
            self._charge(self._add(wish))
            return
        old = next((i for i in self._data() if i["id"] == wish.id), None)
        if old is None:
            raise missing("subscription item", wish.id, "items[0][id]")
        new = None if wish.is_deleted else _changed(old, wish)
        self._replace(old, new)
        if new is not None and _worth(old) == _worth(new):
            return
        self.prorations.append(proration_line(self._state, old, is_credit=True))
        if new is not None and _interval(new) != _interval(old):
            self.renewed.append(new)
        elif new is not None:
            self._charge(new)

    def _add(self, wish: Wish) -> Object:
        """Add an item to the running period of those that renew as often as it does."""
        siblings = list(self._data())
        item = add(self._state, self._subscription, wish, self._state.now(), None)
        for other in siblings:
            if _interval(other) == _interval(item):
                start, end = other["current_period_start"], other["current_period_end"]
                item.update(current_period_start=start, current_period_end=end)
        return item

    def _charge(self, item: Object) -> None:
        self.prorations.append(proration_line(self._state, item, is_credit=False))

    def _replace(self, old: Object, new: Object | None) -> None:
        items = self._subscription["items"]
        items["data"] = [
            (new if item is old else item)
            for item in self._data()
            if not (item is old and new is None)
        ]
        items["total_count"] = len(items["data"])
        if new is None:
            del self._state.objects[old["id"]]
        else:
            self._state.add(new)

    def _data(self) -> list[Any]:
        data: list[Any] = self._subscription["items"]["data"]
        return data


def _take(state: State, form: Form, cause: Cause) -> Wish:
    id = form.text("id")
    is_priced = form.has("price") or form.has("price_data")
    wish = Wish(
        id,
        catalogue.price_of(state, form, cause) if is_priced else None,
        form.integer("quantity"),
        form.metadata(),
        form.flag("deleted"),
    )
    form.ignore("clear_usage", "tax_rates", "discounts")
    form.finish()
    return wish


def _changed(item: Object, wish: Wish) -> Object:
    changed = dict(item)
    if wish.price is not None:
        changed.update(price=wish.price, plan=shapes.plan(wish.price))
    if wish.quantity is not None:
        changed["quantity"] = wish.quantity
    changed["metadata"] = item["metadata"] | wish.metadata
    return changed


def _worth(item: Object) -> tuple[str, int]:
    return item["price"]["id"], item["quantity"]


def _interval(item: Object) -> tuple[str, int]:
    recurring = item["price"]["recurring"]
    return recurring["interval"], recurring["interval_count"]


def _rounded(numerator: int, denominator: int) -> int:
    """Divide, rounded half up."""
    return (2 * numerator + denominator) // (2 * denominator)
