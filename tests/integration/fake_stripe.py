"""The fake Stripe in the test's process, with the real client to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import stripe

from sidecar.dev.fake_stripe.app import build
from sidecar.dev.fake_stripe.clock import Clock
from sidecar.dev.fake_stripe.delivery import Delivery
from sidecar.dev.fake_stripe.state import State
from tests.integration.listener import served

KEY = "sk_test_fake"


@dataclass(frozen=True)
class Fake:
    """A fake Stripe that is served: the product's client, and the control."""

    url: str
    state: State
    client: stripe.StripeClient
    http: httpx.Client

    def events(self, after: int = 0, kind: str = "") -> list[dict[str, Any]]:
        """Return the events in the order of their creation: from number `after`, of a kind."""
        return [dict(event) for event in self.state.events[after:] if kind in ("", event["type"])]

    def types(self, after: int = 0) -> list[str]:
        """Return the types of the events, in the order of their creation."""
        return [event["type"] for event in self.events(after)]

    def control(self, path: str, /, **fields: Any) -> dict[str, Any]:
        """Call `/_fake/<path>` and return its answer."""
        answer = self.http.post(f"{self.url}/_fake/{path}", json=fields)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def advance(self, seconds: float = 0, *, days: float = 0) -> int:
        """Move the clock, run what comes due on the way, and return the new time."""
        return int(self.control("clock", advance_seconds=int(seconds + days * 86_400))["now"])

    def fault(self, kind: str, **fields: Any) -> None:
        """Plan a fault for the next request, or the next `count`, that match."""
        self.control("faults", kind=kind, **fields)

    def customer(self, card: str = "pm_card_visa") -> tuple[str, str]:
        """Make a customer whose default is a card; return the ids of both."""
        customers = self.client.v1.customers
        made = customers.create({"payment_method": card, "email": "a@example.com"})
        (method,) = customers.payment_methods.list(made.id).data
        customers.update(made.id, {"invoice_settings": {"default_payment_method": method.id}})
        return made.id, method.id

    def price(self, amount: int = 2000, interval: str = "month", interval_count: int = 1) -> str:
        """Make a recurring price, in cents, with a product of its own; return its id."""
        recurring = {"interval": interval, "interval_count": interval_count}
        params: Any = {"currency": "usd", "unit_amount": amount, "recurring": recurring}
        params["product_data"] = {"name": "Plan"}
        return self.client.v1.prices.create(params).id

    def subscribe(self, customer: str, *prices: str, **fields: Any) -> stripe.Subscription:
        """Subscribe a customer to one of each price; `fields` are Stripe's parameters."""
        items = [{"price": price} for price in prices]
        params: Any = {"customer": customer, "items": items, **fields}
        return self.client.v1.subscriptions.create(params)


@contextlib.contextmanager
def running(
    webhook_url: str | None = None,
    secrets: Sequence[str] = (),
    retry_delays_seconds: Sequence[float] = (0.01,) * 5,
    *,
    is_frozen: bool = True,
) -> Iterator[Fake]:
    """Serve a fake Stripe on loopback; without a `webhook_url` it sends no webhooks.

    Its clock begins at the real time; a frozen one is moved by `advance` alone.
    """
    start = time.time()
    state = State(clock=Clock(lambda: start)) if is_frozen else State()
    delivery = Delivery(webhook_url, secrets, retry_delays_seconds)
    with served(build(delivery, state)) as url, httpx.Client(trust_env=False, timeout=10) as http:
        yield Fake(url, state, client_of(url), http)


def client_of(url: str, key: str = KEY, timeout_seconds: float = 10) -> stripe.StripeClient:
    """Return the real client, pointed at a fake; it tries everything once."""
    return stripe.StripeClient(
        key,
        base_addresses={"api": url},
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=timeout_seconds),
    )
