"""Our fake Stripe, spoken to by the real client, and its webhooks by the real listener."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sidecar.dev.fake_stripe.app import build
from sidecar.dev.fake_stripe.clock import Clock
from sidecar.dev.fake_stripe.delivery import Delivery
from sidecar.dev.fake_stripe.state import State
from tests.integration.listener import served

SECRETS = ("whsec_new", "whsec_old")
METADATA = {"purpose": "topup", "account": "acme", "credits": "10000000"}


@dataclass
class Inbox:
    """A webhook endpoint that answers as told and remembers what it got."""

    answers: list[int] = field(default_factory=list)
    got: list[stripe.Event] = field(default_factory=list)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    async def receive(self, request: Request) -> Response:
        payload, header = await request.body(), request.headers["stripe-signature"]
        for secret in SECRETS:
            stripe.WebhookSignature.verify_header(payload, header, secret, 300)
        self.got.append(stripe.Webhook.construct_event(payload, header, SECRETS[0]))
        self.arrived.release()
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    def wait(self, count: int) -> list[str]:
        """Wait for `count` deliveries and return the types of all so far."""
        for _ in range(count):
            assert self.arrived.acquire(timeout=10)
        return [event.type for event in self.got]


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def url(inbox: Inbox) -> Iterator[str]:
    endpoint = Starlette(routes=[Route("/hook", inbox.receive, methods=["POST"])])
    with served(endpoint) as hooks:
        delivery = Delivery(f"{hooks}/hook", SECRETS, retry_delays_seconds=(0.01,) * 5)
        # Time stands still, so that no fee becomes known while a test looks on.
        state = State(clock=Clock(lambda: 1_800_000_000))
        with served(build(delivery, state)) as fake:
            yield fake


@pytest.fixture
def client(url: str) -> stripe.StripeClient:
    return stripe.StripeClient(
        "sk_test_1", base_addresses={"api": url}, max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=10),
    )  # fmt: skip


def pay(client: stripe.StripeClient, **options: str) -> stripe.PaymentIntent:
    return client.v1.payment_intents.create(
        {
            "amount": 1000,
            "currency": "usd",
            "confirm": True,
            "payment_method": "pm_card_visa",
            "metadata": METADATA,
        },
        {"idempotency_key": options["key"]} if options else {},
    )


def test_a_confirmed_payment_succeeds_and_is_told_of(
    client: stripe.StripeClient, inbox: Inbox
) -> None:
    payment = pay(client)

    assert (payment.status, payment.amount_received, payment.livemode) == ("succeeded", 1000, False)
    assert payment.metadata.to_dict() == METADATA
    types = inbox.wait(3)
    assert sorted(types) == [
        "charge.succeeded",
        "payment_intent.created",
        "payment_intent.succeeded",
    ]
    told = next(event for event in inbox.got if event.type == "payment_intent.succeeded")
    assert told.data.object["id"] == payment.id
    assert told.api_version == "2026-10-28.endive"
    assert client.v1.payment_intents.retrieve(payment.id).status == "succeeded"
    charge = client.v1.charges.retrieve(str(payment.latest_charge))
    assert (charge.paid, charge.payment_intent) == (True, payment.id)


def test_a_payment_may_be_confirmed_later_or_cancelled(client: stripe.StripeClient) -> None:
    payment = client.v1.payment_intents.create({"amount": 5, "currency": "EUR"})
    assert (payment.status, payment.currency) == ("requires_payment_method", "eur")
    with pytest.raises(stripe.InvalidRequestError, match="missing a payment method"):
        client.v1.payment_intents.confirm(payment.id)
    paid = client.v1.payment_intents.confirm(payment.id, {"payment_method": "pm_card_visa"})
    assert paid.status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError, match="status of succeeded"):
        client.v1.payment_intents.cancel(payment.id)
    other = client.v1.payment_intents.create({"amount": 5, "currency": "eur"})
    assert client.v1.payment_intents.cancel(other.id).status == "canceled"


def test_a_declined_card_is_a_card_error_with_its_code(
    client: stripe.StripeClient, inbox: Inbox
) -> None:
    with pytest.raises(stripe.CardError) as declined:
        client.v1.payment_intents.create(
            {
                "amount": 5,
                "currency": "usd",
                "confirm": True,
                "payment_method": "pm_card_chargeDeclinedInsufficientFunds",
            }
        )
    assert declined.value.code == "card_declined"
    error = declined.value.error
    assert error is not None
    assert error.decline_code == "insufficient_funds"
    assert "payment_intent.payment_failed" in inbox.wait(3)


def test_an_idempotency_key_gives_the_first_answer_again(client: stripe.StripeClient) -> None:
    first, again = pay(client, key="k1"), pay(client, key="k1")
    assert first.id == again.id
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError):
        client.v1.payment_intents.create(
            {"amount": 2, "currency": "usd"}, {"idempotency_key": "k1"}
        )
    assert len(client.v1.events.list({"type": "payment_intent.succeeded"}).data) == 1


def test_a_session_is_paid_on_its_page(client: stripe.StripeClient, inbox: Inbox, url: str) -> None:
    session = client.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "success_url": "http://127.0.0.1/thanks?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "http://127.0.0.1/cart",
            "metadata": METADATA,
            "payment_intent_data": {"metadata": METADATA},
            "line_items": [
                {
                    "quantity": 2,
                    "price_data": {
                        "currency": "usd",
                        "unit_amount": 500,
                        "product_data": {"name": "10 <credits>"},
                    },
                }
            ],
        }
    )
    assert (session.status, session.payment_status, session.amount_total) == (
        "open",
        "unpaid",
        1000,
    )
    assert session.payment_intent is None
    assert session.url == f"{url}/pay/{session.id}"

    page = httpx.get(session.url, trust_env=False)
    assert (page.status_code, "Pay 10.00 USD" in page.text) == (200, True)
    done = httpx.post(session.url, data={"payment_method": "pm_card_visa"}, trust_env=False)
    assert done.status_code == 303
    assert done.headers["location"] == f"http://127.0.0.1/thanks?session={session.id}"

    assert sorted(inbox.wait(4))[1] == "checkout.session.completed"
    paid = client.v1.checkout.sessions.retrieve(session.id)
    assert (paid.status, paid.payment_status) == ("complete", "paid")
    payment = client.v1.payment_intents.retrieve(str(paid.payment_intent))
    assert (payment.status, payment.metadata["purpose"]) == ("succeeded", "topup")
    assert httpx.post(str(session.url), trust_env=False).status_code == 400


def test_events_are_listed_newest_first_with_filters_and_cursors(
    client: stripe.StripeClient,
) -> None:
    for _ in range(5):
        pay(client)
    events = client.v1.events
    all_ids = [event.id for event in events.list({"limit": 100}).data]
    assert len(all_ids) == 15
    paged = events.list({"limit": 4})
    assert [event.id for event in paged.auto_paging_iter()] == all_ids
    assert paged.has_more
    ids = [e.id for e in events.list({"limit": 2, "ending_before": all_ids[5]}).data]
    assert ids == all_ids[3:5]
    ids = [e.id for e in events.list({"limit": 2, "starting_after": all_ids[5]}).data]
    assert ids == all_ids[6:8]
    created = events.retrieve(all_ids[0]).created
    assert len(events.list({"created": {"gt": created}}).data) == 0
    assert len(events.list({"created": {"gte": created - 60}, "limit": 100}).data) == 15
    assert events.list({"created": created, "limit": 1}).data[0].id == all_ids[0]
    kinds = {e.type for e in events.list({"types": ["charge.succeeded", "x"]}).data}
    assert kinds == {"charge.succeeded"}


def test_a_webhook_that_is_not_answered_2xx_is_sent_again(
    client: stripe.StripeClient, inbox: Inbox
) -> None:
    inbox.answers = [500, 503, 400, 301]
    pay(client)
    types = inbox.wait(7)
    assert len(types) == 7
    assert len({event.id for event in inbox.got}) == 3


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"currency": "usd"}, "amount"),
        ({"amount": 0, "currency": "usd"}, "amount"),
        ({"amount": "x", "currency": "usd"}, "amount"),
        ({"amount": 5}, "currency"),
        ({"amount": 5, "currency": "usd", "colour": "red"}, "colour"),
        ({"amount": 5, "currency": "usd", "metadata": {"a": "x" * 501}}, "metadata"),
        ({"amount": 5, "currency": "usd", "payment_method": "pm_other"}, "payment_method"),
    ],
)
def test_wrong_parameters_are_refused_by_their_name(
    client: stripe.StripeClient, params: dict[str, object], param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.raw_request("post", "/v1/payment_intents", **params)
    assert refused.value.param == param


def test_nothing_is_answered_without_a_key(url: str) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic !"}):
        response = httpx.get(f"{url}/v1/events", headers=headers, trust_env=False)
        assert response.status_code == 401
    answer = httpx.get(f"{url}/v1/events", auth=("sk_test_1", ""), trust_env=False)
    assert answer.json()["object"] == "list"


def test_what_is_not_there_is_said_to_be_missing(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as missing:
        client.v1.payment_intents.retrieve("pi_none")
    assert (missing.value.code, missing.value.http_status) == ("resource_missing", 404)
