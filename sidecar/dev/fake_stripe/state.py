"""What the fake remembers: objects by id, the log of events, answers by idempotency key."""

from __future__ import annotations

import copy
import secrets
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.dev.fake_stripe.clock import DAY, Clock
from sidecar.dev.fake_stripe.failures import missing

API_VERSION: Final = "2026-10-28.endive"
EVENTS_KEPT_SECONDS: Final = 30 * DAY

_ALPHABET: Final = string.ascii_letters + string.digits

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """The request behind a change: it stands in the events that the change makes."""

    request_id: str | None = None
    idempotency_key: str | None = None
    livemode: bool = False


@dataclass(frozen=True, slots=True)
class Bank:
    """What the bank behind a payment method answers: yes, unless a field says otherwise."""

    decline_code: str | None = None
    advice_code: str | None = None
    asks_for_authentication: bool = False
    refunds_begin: str | None = None
    is_delayed: bool = False


@dataclass(slots=True)
class Settings:
    """What the control may change at run time; times are on the fake's clock."""

    after_retries: str = "canceled"
    """What a subscription becomes after the last retry: `canceled`, `unpaid` or `past_due`."""
    retry_days: list[int] = field(default_factory=lambda: [3, 5, 7])
    """Days from each failed attempt at a renewal to the next one."""
    finalize_seconds: int = 3_600
    """How long the invoice of a renewal stays a draft."""
    fee_seconds: int = 2
    """How long after a payment its fee is known; 0 is right after the answer."""
    settle_seconds: int = 3 * DAY
    """How long a delayed payment method takes."""
    refunds_begin: str = "succeeded"
    """The first status of refunds whose card does not say another one."""
    early_trial_reason: str = "subscription_update"
    """The `billing_reason` of the invoice of a trial that is ended early."""
    tax_amount: int = 0
    """The tax on every new Checkout session, in minor units."""


@dataclass(slots=True)
class State:
    """Everything, in memory; changed from one thread only. `publish` sees every new event.

    Fields of objects that begin with `_` are the fake's own: no answer and no event shows them.
    """

    publish: Callable[[Object], None] = lambda _: None
    clock: Clock = field(default_factory=Clock)
    settings: Settings = field(default_factory=Settings)
    objects: dict[str, Object] = field(default_factory=dict)
    events: list[Object] = field(default_factory=list)
    when_settled: dict[str, Callable[[bool, Cause], None]] = field(default_factory=dict)
    """What is to be done each time that a PaymentIntent has succeeded or failed."""
    forced_bank: Bank | None = None
    """What every bank answers to the request that runs now."""

    def now(self) -> int:
        """Return the time on the fake's clock."""
        return self.clock.now()

    def new_id(self, prefix: str) -> str:
        """Return an id that never was, in this process or another."""
        return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(24))}"

    def add(self, thing: Object) -> Object:
        """Keep an object under its id."""
        self.objects[thing["id"]] = thing
        return thing

    def get(self, kind: str, id: str | None, param: str = "id") -> Object:
        """Return an object of a kind. Raises `StripeFailure` (404)."""
        thing = self.objects.get(id or "")
        if thing is None or thing["object"] != kind:
            raise missing(kind, id or "", param)
        return thing

    def all(self, kind: str, **fields: Any) -> Iterator[Object]:
        """Yield the objects of a kind with these fields, oldest first."""
        for thing in list(self.objects.values()):
            if thing["object"] == kind and all(thing[name] == fields[name] for name in fields):
                yield thing

    def change(self, thing: Object, kind: str, cause: Cause, **fields: Any) -> Object:
        """Change fields of an object and tell of it with what they were; no change, no event."""
        before = {
            name: copy.deepcopy(thing.get(name))
            for name, value in fields.items()
            if thing.get(name) != value
        }
        thing.update(fields)
        if before:
            self.emit(kind, thing, cause, before)
        return thing

    def tell(self, thing: Object, kind: str, cause: Cause, before: Object) -> None:
        """Tell what differs from `before`, an object as it was shown; nothing, no event."""
        now = public(thing)
        old = {name: before.get(name) for name in now if now[name] != before.get(name)}
        if old:
            self.emit(kind, thing, cause, old)

    def emit(self, kind: str, thing: Object, cause: Cause, before: Object | None = None) -> Object:
        """Log and publish an event about an object, as it is at this moment."""
        data: Object = {"object": public(thing)}
        if before is not None:
            data["previous_attributes"] = public(before)
        event: Object = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now(),
            "data": data,
            "livemode": cause.livemode,
            "pending_webhooks": 0,
            "request": {"id": cause.request_id, "idempotency_key": cause.idempotency_key},
            "type": kind,
        }
        self.events.append(event)
        self.publish(event)
        return event

    def forget_old_events(self) -> None:
        """Drop the events that are older than Stripe keeps them."""
        oldest = self.now() - EVENTS_KEPT_SECONDS
        while self.events and self.events[0]["created"] < oldest:
            del self.events[0]


def by_itself(thing: Object) -> Cause:
    """Return the cause of what happens to an object without a request."""
    return Cause(livemode=thing["livemode"])


def public(value: Any) -> Any:
    """Return a copy as Stripe shows it: without the fields that are the fake's own."""
    if isinstance(value, dict):
        return {name: public(each) for name, each in value.items() if not name.startswith("_")}
    if isinstance(value, list):
        return [public(each) for each in value]
    return value
