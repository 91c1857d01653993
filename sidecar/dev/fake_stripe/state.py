"""What the fake remembers: objects by id, the log of events, answers by idempotency key."""

from __future__ import annotations

import copy
import secrets
import string
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.dev.fake_stripe.failures import missing

API_VERSION: Final = "2026-10-28.endive"

_ALPHABET: Final = string.ascii_letters + string.digits

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """The request behind a change: it stands in the events that the change makes."""

    request_id: str | None = None
    idempotency_key: str | None = None
    livemode: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered; `digest` tells its parameters from others."""

    digest: str
    status: int
    body: Object


@dataclass(slots=True)
class State:
    """Everything, in memory; changed from one thread only. `publish` sees every new event."""

    publish: Callable[[Object], None] = lambda _: None
    now: Callable[[], int] = lambda: int(time.time())
    objects: dict[str, Object] = field(default_factory=dict)
    events: list[Object] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)

    def new_id(self, prefix: str) -> str:
        """Return an id that never was, in this process or another."""
        return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(24))}"

    def add(self, thing: Object) -> Object:
        """Keep an object under its id."""
        self.objects[thing["id"]] = thing
        return thing

    def get(self, kind: str, id: str) -> Object:
        """Return an object of a kind. Raises `StripeFailure` (404)."""
        thing = self.objects.get(id)
        if thing is None or thing["object"] != kind:
            raise missing(kind, id)
        return thing

    def emit(self, kind: str, thing: Object, cause: Cause) -> Object:
        """Log and publish an event about an object, as it is at this moment."""
        event: Object = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now(),
            "data": {"object": copy.deepcopy(thing)},
            "livemode": cause.livemode,
            "pending_webhooks": 0,
            "request": {"id": cause.request_id, "idempotency_key": cause.idempotency_key},
            "type": kind,
        }
        self.events.append(event)
        self.publish(event)
        return event
