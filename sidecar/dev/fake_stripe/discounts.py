"""Coupons in use: what they take off an invoice, and for how long."""

from __future__ import annotations

from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.periods import months_later
from sidecar.dev.fake_stripe.shapes import billing as shapes
from sidecar.dev.fake_stripe.state import Object, State


def take(state: State, form: Form) -> list[Object] | None:
    """Take the coupons of `discounts`; None when it is not given."""
    if not form.has("discounts"):
        return None
    found = []
    for part in form.parts("discounts"):
        id = part.required("coupon")
        part.finish()
        found.append(state.get("coupon", id, "discounts[0][coupon]"))
    return found


def use(state: State, subscription: Object, coupons: list[Object]) -> None:
    """Let a subscription have these coupons and no others."""
    subscription["discounts"] = []
    for coupon in coupons:
        months = coupon["duration_in_months"] if coupon["duration"] == "repeating" else None
        end = months_later(state.now(), months) if months else None
        discount = state.add(shapes.discount(state, subscription, coupon, end))
        subscription["discounts"].append(discount["id"])
        coupon["times_redeemed"] += 1


def apply(state: State, subscription: Object, lines: list[Object]) -> list[Object]:
    """Write into lines what is off each, and return what is off in total by discount.

    A coupon for once is used up by that.
    """
    totals = []
    for id in list(subscription["discounts"]):
        discount = state.objects[id]
        coupon = state.objects[discount["source"]["coupon"]]
        if discount["end"] is not None and discount["end"] <= state.now():
            subscription["discounts"].remove(id)
            continue
        amount = sum(_apply_to_lines(lines, id, coupon))
        totals.append({"amount": amount, "discount": id})
        if coupon["duration"] == "once" and amount:
            subscription["discounts"].remove(id)
    return totals


def _apply_to_lines(lines: list[Object], discount: str, coupon: Object) -> list[int]:
    left, amounts = coupon["amount_off"] or 0, []
    for line in lines:
        base = line["amount"] - sum(each["amount"] for each in line["discount_amounts"])
        if coupon["percent_off"] is not None:
            amount = round(base * coupon["percent_off"] / 100)
        else:
            amount = max(min(left, base), 0)
            left -= amount
        line["discount_amounts"].append({"amount": amount, "discount": discount})
        amounts.append(amount)
    return amounts
