"""Lists of events as Stripe gives them: newest first, with filters and both cursors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.dev.fake_stripe.failures import StripeFailure, missing
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.state import Object, State

LIMIT_DEFAULT: Final = 10
LIMIT_MAX: Final = 100

_COMPARISONS: Final[dict[str, Callable[[int, int], bool]]] = {
    "gt": lambda created, bound: created > bound,
    "gte": lambda created, bound: created >= bound,
    "lt": lambda created, bound: created < bound,
    "lte": lambda created, bound: created <= bound,
}


def list_events(state: State, form: Form, created_equals: int | None) -> Object:
    """Return a page of the events. `created_equals` is the filter `created=<instant>`."""
    kinds = [*filter(None, [form.text("type")]), *form.texts("types")]
    is_created = _created(form, created_equals)
    limit = form.integer("limit", least=1) or LIMIT_DEFAULT
    after, before = form.text("starting_after"), form.text("ending_before")
    form.finish()
    if limit > LIMIT_MAX:
        raise StripeFailure(f"The limit must be at most {LIMIT_MAX}.", param="limit")
    found = [
        event
        for event in _between(state, after, before)
        if (not kinds or event["type"] in kinds) and is_created(event["created"])
    ]
    # Before a cursor, the page next to it is meant, not the newest one.
    page = found[-limit:] if before and not after else found[:limit]
    return {
        "object": "list",
        "url": "/v1/events",
        "has_more": len(found) > limit,
        "data": page,
    }


def find_event(state: State, id: str) -> Object:
    """Return one event. Raises `StripeFailure` (404)."""
    return state.events[_index(state, id)]


def _between(state: State, after: str | None, before: str | None) -> list[Object]:
    last = len(state.events) if after is None else _index(state, after)
    first = 0 if before is None else _index(state, before) + 1
    return state.events[first:last][::-1]


def _index(state: State, id: str) -> int:
    for index, event in enumerate(state.events):
        if event["id"] == id:
            return index
    raise missing("event", id)


def _created(form: Form, equals: int | None) -> Callable[[int], bool]:
    if equals is not None:
        return lambda created: created == equals
    part = form.part("created")
    bounds = {name: part.integer(name) for name in _COMPARISONS}
    part.finish()
    return lambda created: all(
        _COMPARISONS[name](created, bound) for name, bound in bounds.items() if bound is not None
    )
