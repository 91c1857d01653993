"""Lists as Stripe gives them: newest first, with filters and both cursors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sidecar.dev.fake_stripe.call import Call, Verb
from sidecar.dev.fake_stripe.failures import StripeFailure, missing
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.state import Object

LIMIT_DEFAULT: Final = 10
LIMIT_MAX: Final = 100


def listing(kind: str, url: str, *filters: str) -> Verb:
    """Return the verb that lists objects of a kind; each filter names a field they must have."""

    def show(call: Call) -> Object:
        wanted = {name: call.form.text(name) for name in filters}
        return page(
            call.form,
            url,
            [*call.state.all(kind)],
            lambda thing: all(
                value is None or _value(thing, name) == value for name, value in wanted.items()
            ),
        )

    return show


def page(
    form: Form,
    url: str,
    things: Sequence[Object],
    matches: Callable[[Object], bool] = lambda _: True,
) -> Object:
    """Return a page of things that are given oldest first; takes what is left of the form."""
    is_created = form.instants("created")
    limit = form.integer("limit", least=1) or LIMIT_DEFAULT
    after, before = form.text("starting_after"), form.text("ending_before")
    form.finish()
    if limit > LIMIT_MAX:
        raise StripeFailure(f"The limit must be at most {LIMIT_MAX}.", param="limit")
    found = [
        thing
        for thing in _between(things, after, before)
        if is_created(thing.get("created", 0)) and matches(thing)
    ]
    # Before a cursor, the page next to it is meant, not the newest one.
    data = found[-limit:] if before and not after else found[:limit]
    return whole(url, data, has_more=len(found) > limit)


def whole(url: str, data: list[Object], has_more: bool = False) -> Object:
    """Return a list object around what it holds."""
    return {"object": "list", "url": url, "has_more": has_more, "data": data}


def events(call: Call) -> Object:
    """List the events of the last 30 days."""
    call.state.forget_old_events()
    form = call.form
    kinds = [*filter(None, [form.text("type")]), *form.texts("types")]
    delivered = form.flag("delivery_success") if form.has("delivery_success") else None
    return page(
        form,
        "/v1/events",
        call.state.events,
        lambda event: (
            (not kinds or event["type"] in kinds)
            and (delivered is None or (event["pending_webhooks"] == 0) == delivered)
        ),
    )


def event(call: Call) -> Object:
    """Return one event. Raises `StripeFailure` (404), after 30 days too."""
    call.state.forget_old_events()
    call.form.finish()
    return call.state.events[_index(call.state.events, call.id)]


def _between(things: Sequence[Object], after: str | None, before: str | None) -> list[Object]:
    last = len(things) if after is None else _index(things, after, "starting_after")
    first = 0 if before is None else _index(things, before, "ending_before") + 1
    return list(things[first:last][::-1])


def _index(things: Sequence[Object], id: str, param: str = "id") -> int:
    for index, thing in enumerate(things):
        if thing["id"] == id:
            return index
    raise missing("object", id, param)


def _value(thing: Object, name: str) -> Any:
    if thing["object"] == "invoice" and name == "subscription":
        details = (thing["parent"] or {}).get("subscription_details") or {}
        return details.get("subscription")
    value = thing.get(name)
    return str(value).lower() if isinstance(value, bool) else value
