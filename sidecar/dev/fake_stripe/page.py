"""The fake's own page at `/`: everything in it, with buttons for what banks and time would do."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from sidecar.dev.fake_stripe.clock import DAY, HOUR
from sidecar.dev.fake_stripe.markup import Markup, button, document, join, table, tag
from sidecar.dev.fake_stripe.state import Object, State

EVENTS_SHOWN: Final = 50
ROWS_SHOWN: Final = 50

_STEPS: Final = {"advance an hour": HOUR, "advance a day": DAY, "advance a month": 31 * DAY}


def render(state: State, message: str = "") -> str:
    """Return the page; `message` is what the last button came to."""
    note = "This is a fake Stripe on a development machine. No money moves."
    return document(
        "Fake Stripe",
        tag("p", note, **{"class": "note"}),
        tag("p", tag("strong", message)) if message else "",
        _clock(state),
        tag("h2", "Customers"),
        _customers(state),
        tag("h2", "Subscriptions"),
        _subscriptions(state),
        tag("h2", "Payments"),
        _payments(state),
        tag("h2", "Disputes"),
        _disputes(state),
        tag("h2", f"The last {EVENTS_SHOWN} events"),
        _events(state),
    )


def moment(seconds: int | None) -> str:
    """Return an instant as people read it, in UTC."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def money(amount: int, currency: str) -> str:
    """Return an amount as people read it; all currencies are shown with two decimals."""
    return f"{amount / 100:.2f} {currency.upper()}"


def _clock(state: State) -> Markup:
    steps = [
        button(label, "/do/advance", seconds=str(seconds)) for label, seconds in _STEPS.items()
    ]
    return tag("div", join(["It is ", moment(state.now()), " UTC. ", *steps]))


def _customers(state: State) -> Markup:
    return table(
        ("Customer", "E-mail", "Metadata", "Balance", "Cards"),
        (
            (
                tag("code", customer["id"]),
                customer["email"],
                _metadata(customer),
                customer["balance"],
                join(_cards(state, customer)),
            )
            for customer in _newest(state, "customer")
        ),
    )


def _cards(state: State, customer: Object) -> list[Markup]:
    shown = []
    default = customer["invoice_settings"]["default_payment_method"]
    for method in state.all("payment_method", customer=customer["id"]):
        fails = method["_bank"].decline_code or "pays"
        name = f"{method['_name']}{' (default)' if method['id'] == default else ''}: {fails} "
        fail = button("fail the card", "/do/fail", card=method["id"])
        mend = button("mend the card", "/do/mend", card=method["id"])
        shown.append(tag("div", join([tag("code", method["id"]), " ", name, fail, mend])))
    return shown


def _subscriptions(state: State) -> Markup:
    return table(
        ("Subscription", "Customer", "Status", "Items", "Period ends", ""),
        (
            (
                tag("code", subscription["id"]),
                tag("code", subscription["customer"]),
                subscription["status"],
                join(_items(subscription)),
                moment(min(i["current_period_end"] for i in subscription["items"]["data"])),
                button("cancel", "/do/cancel", subscription=subscription["id"]),
            )
            for subscription in _newest(state, "subscription")
        ),
    )


def _items(subscription: Object) -> list[Markup]:
    shown = []
    for item in subscription["items"]["data"]:
        price = item["price"]
        amount = money(price["unit_amount"], price["currency"])
        interval = price["recurring"]["interval"]
        shown.append(tag("div", f"{item['quantity']} x {amount} a {interval}"))
    return shown


def _payments(state: State) -> Markup:
    return table(
        ("Payment", "Made", "Amount", "Status", "Refunded", "Metadata", ""),
        (
            (
                tag("code", payment["id"]),
                moment(payment["created"]),
                money(payment["amount"], payment["currency"]),
                payment["status"],
                _refunded(state, payment),
                _metadata(payment),
                join(_payment_buttons(payment)),
            )
            for payment in _newest(state, "payment_intent")
        ),
    )


def _refunded(state: State, payment: Object) -> str:
    charge = state.objects.get(payment["latest_charge"] or "", {})
    refunded = charge.get("amount_refunded", 0)
    return money(refunded, payment["currency"]) if refunded else ""


def _payment_buttons(payment: Object) -> list[Markup]:
    id = payment["id"]
    if payment["status"] == "processing":
        return [
            button("let it succeed", "/do/settle", payment=id, paid="yes"),
            button("let it fail", "/do/settle", payment=id, paid="no"),
        ]
    if payment["status"] == "requires_action":
        return [button("authenticate", "/do/authenticate", payment=id)]
    if payment["status"] != "succeeded":
        return []
    return [
        button("refund half", "/do/refund", payment=id, part="half"),
        button("refund all", "/do/refund", payment=id, part="all"),
        button("dispute", "/do/dispute", payment=id, kind="chargeback"),
        button("inquiry", "/do/dispute", payment=id, kind="inquiry"),
    ]


def _disputes(state: State) -> Markup:
    return table(
        ("Dispute", "Payment", "Amount", "Status", ""),
        (
            (
                tag("code", dispute["id"]),
                tag("code", dispute["payment_intent"]),
                money(dispute["amount"], dispute["currency"]),
                dispute["status"],
                join(
                    button(step, "/do/dispute-step", dispute=dispute["id"], step=step)
                    for step in ("win", "lose", "appeal", "withdraw", "close")
                ),
            )
            for dispute in _newest(state, "dispute")
        ),
    )


def _events(state: State) -> Markup:
    return table(
        ("When", "Type", "About", "Event", "Delivered"),
        (
            (
                moment(event["created"]),
                event["type"],
                tag("code", event["data"]["object"].get("id")),
                tag("code", event["id"]),
                "pending" if event["pending_webhooks"] else "yes",
            )
            for event in state.events[: -EVENTS_SHOWN - 1 : -1]
        ),
    )


def _newest(state: State, kind: str) -> list[Object]:
    return [*state.all(kind)][: -ROWS_SHOWN - 1 : -1]


def _metadata(thing: Object) -> Any:
    return tag("code", json.dumps(thing["metadata"])) if thing["metadata"] else ""
