"""How our fake Stripe delivers events, and what can be made to go wrong on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.integration.fake_stripe import Fake, running
from tests.integration.listener import served


@dataclass
class Hook:
    """A webhook endpoint that keeps the ids it got, and the headers."""

    status: int = 200
    ids: list[str] = field(default_factory=list)
    deliveries: list[tuple[bytes, str]] = field(default_factory=list)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    async def receive(self, request: Request) -> Response:
        """Keep a delivery."""
        body = await request.body()
        self.deliveries.append((body, request.headers["stripe-signature"]))
        self.ids.append((await request.json())["id"])
        self.arrived.release()
        return Response(status_code=self.status)

    def wait(self, count: int) -> list[str]:
        """Wait for so many deliveries, and return the ids of all."""
        for _ in range(count):
            assert self.arrived.acquire(timeout=10)
        return self.ids


@pytest.fixture
def hook() -> Hook:
    return Hook()


@pytest.fixture
def fake(hook: Hook) -> Iterator[Fake]:
    app = Starlette(routes=[Route("/hook", hook.receive, methods=["POST"])])
    with served(app) as url, running(f"{url}/hook", ["whsec_a"]) as started:
        yield started


def make(fake: Fake, count: int) -> list[str]:
    """Make so many events, and return their ids in the order of creation."""
    for _ in range(count):
        fake.client.v1.customers.create()
    return [event["id"] for event in fake.events()][-count:]


def settled(fake: Fake) -> None:
    """Wait until nothing is on its way."""
    deadline = time.monotonic() + 10
    while fake.control("delivery")["pending"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_event_may_come_twice(fake: Fake, hook: Hook) -> None:
    fake.control("delivery", duplicate_probability=1)
    (id,) = make(fake, 1)
    assert hook.wait(2) == [id, id]


def test_an_event_may_be_lost_and_is_in_the_list_only(fake: Fake, hook: Hook) -> None:
    fake.control("delivery", drop_probability=1)
    (lost,) = make(fake, 1)
    fake.control("delivery", drop_probability=0)
    (sent,) = make(fake, 1)
    assert hook.wait(1) == [sent]
    events = fake.client.v1.events
    assert [event.id for event in events.list().data] == [sent, lost]
    settled(fake)
    assert len(events.list({"delivery_success": True}).data) == 2
    assert events.list({"delivery_success": False}).data == []


def test_what_is_not_answered_is_an_unsuccessful_delivery(fake: Fake, hook: Hook) -> None:
    hook.status = 500
    (id,) = make(fake, 1)
    hook.wait(1)
    failed = fake.client.v1.events.list({"delivery_success": False}).data
    assert [(event.id, event.pending_webhooks) for event in failed] == [(id, 1)]


def test_events_are_held_back_and_come_in_another_order_by_a_seed(fake: Fake, hook: Hook) -> None:
    # Nothing is sent by itself: each flush waits for the first one's answers.
    fake.control("delivery", is_on=False, reorder_seconds=1, delay_seconds=[0, 0])
    orders = []
    for _ in range(2):
        fake.control("delivery", seed=7)
        made = make(fake, 6)
        assert fake.control("delivery")["pending"] == 6
        assert fake.control("delivery/flush") == {"sent": 6}
        hook.wait(6)
        settled(fake)
        orders.append(sorted(made.index(id) for id in hook.ids[-6:]))
    assert orders == [[0, 1, 2, 3, 4, 5]] * 2
    assert fake.types().count("customer.created") == 12


def test_reordered_events_come_after_a_short_while(fake: Fake, hook: Hook) -> None:
    fake.control("delivery", reorder_seconds=0.05, seed=3)
    made = make(fake, 5)
    assert sorted(hook.wait(5)) == sorted(made)


def test_deliveries_can_be_late(fake: Fake, hook: Hook) -> None:
    fake.control("delivery", delay_seconds=[0.05, 0.06])
    begun = time.monotonic()
    make(fake, 1)
    hook.wait(1)
    assert time.monotonic() - begun >= 0.05


def test_nothing_is_sent_while_it_is_off_and_all_of_it_at_a_flush(fake: Fake, hook: Hook) -> None:
    fake.control("delivery", is_on=False)
    made = make(fake, 3)
    assert fake.control("delivery")["pending"] == 3
    assert hook.ids == []
    fake.control("delivery/flush")
    assert sorted(hook.wait(3)) == sorted(made)


def test_an_event_can_be_sent_again(fake: Fake, hook: Hook) -> None:
    (id,) = make(fake, 1)
    hook.wait(1)
    fake.control("delivery/send-again", event=id)
    assert hook.wait(1) == [id, id]


def test_secrets_are_rotated_while_it_runs(fake: Fake, hook: Hook) -> None:
    fake.control("delivery", secrets=["whsec_b", "whsec_a"])
    make(fake, 1)
    hook.wait(1)
    body, header = hook.deliveries[0]
    for secret in ("whsec_a", "whsec_b"):
        stripe.WebhookSignature.verify_header(body, header, secret, 300)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(body, header, "whsec_c", 300)


def test_signatures_tell_the_real_time_whatever_the_clock(fake: Fake, hook: Hook) -> None:
    fake.advance(days=40)
    make(fake, 1)
    hook.wait(1)
    _, header = hook.deliveries[0]
    signed = int(header.split(",")[0].removeprefix("t="))
    assert abs(signed - time.time()) < 60
    assert fake.events()[-1]["created"] > time.time() + 39 * 86_400


def test_where_events_go_can_be_set_while_it_runs(fake: Fake, hook: Hook) -> None:
    url = fake.control("delivery")["url"]
    with running() as other:
        other.client.v1.customers.create()
        other.control("delivery", url=url, secrets=["whsec_z"])
        other.client.v1.customers.create()
        assert hook.wait(1) == [other.events()[1]["id"]]


def test_an_option_that_does_not_exist_is_refused(fake: Fake) -> None:
    answer = fake.http.post(f"{fake.url}/_fake/delivery", json={"colour": "red"})
    assert answer.status_code == 400
