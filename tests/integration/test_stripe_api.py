"""Calls to Stripe: one try, a time-out, the version that is read, and failures told apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sidecar.billing.errors import StripeAway, StripeRefused
from sidecar.billing.stripe_api import API_VERSION, StripeApi
from tests.integration import fake_stripe
from tests.integration.fake_stripe import KEY, Fake
from tests.integration.listener import served

CHARGE = {"amount": 1000, "currency": "usd", "confirm": True}


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    with fake_stripe.running() as started:
        yield started


@pytest.fixture
def api(fake: Fake) -> Iterator[StripeApi]:
    yield StripeApi(KEY, fake.url)
    fake.http.post(f"{fake.url}/_fake/faults/clear")


def fault(fake: Fake, kind: str, **fields: Any) -> None:
    fake.http.post(f"{fake.url}/_fake/faults", json={"kind": kind} | fields)


def pay(api: StripeApi, key: str, **fields: Any) -> dict[str, Any]:
    return api.post("/v1/payment_intents", CHARGE | {"payment_method": "pm_card_visa"} | fields,
                    key=key)  # fmt: skip


def test_the_version_that_is_read_is_the_pinned_clients_own() -> None:
    assert stripe.api_version == API_VERSION
    assert stripe.VERSION.startswith("16.1.")


def test_what_is_asked_comes_as_plain_json(api: StripeApi) -> None:
    made = pay(api, "key-1")
    assert type(made) is dict
    assert type(made["metadata"]) is dict
    assert api.get(f"/v1/payment_intents/{made['id']}")["status"] == "succeeded"


def test_the_same_key_acts_once(api: StripeApi) -> None:
    assert pay(api, "key-2")["id"] == pay(api, "key-2")["id"]
    with pytest.raises(StripeRefused) as refused:
        pay(api, "key-2", amount=2000)
    assert refused.value.kind == "idempotency_error"


def test_a_long_list_is_read_to_its_end_and_each_object_once(api: StripeApi, fake: Fake) -> None:
    before = len(list(api.every("/v1/payment_intents")))
    ids = {pay(api, f"many-{number}")["id"] for number in range(120)}
    found = [one["id"] for one in api.every("/v1/payment_intents")]
    assert len(found) == len(set(found)) == before + 120
    assert ids <= set(found)


@pytest.mark.parametrize("kind", ["error_before", "error_after", "conflict", "rate_limit", "drop"])
def test_no_clear_answer_is_an_unknown_outcome_and_is_not_tried_again(
    api: StripeApi, fake: Fake, kind: str
) -> None:
    fault(fake, kind, count=1)
    with pytest.raises(StripeAway):
        pay(api, f"away-{kind}")
    # The fault was for one request: a second try of our own would have got through.
    before = len(fake.state.events)
    pay(api, f"after-{kind}")
    assert len(fake.state.events) > before


def test_an_answer_that_does_not_come_ends_by_our_own_time_out(fake: Fake) -> None:
    hurried = StripeApi(KEY, fake.url, timeout_s=0.2)
    fault(fake, "timeout_after", count=1, seconds=1.0)
    began = time.monotonic()
    with pytest.raises(StripeAway):
        pay(hurried, "slow")
    assert time.monotonic() - began < 10
    fake.http.post(f"{fake.url}/_fake/faults/clear")


def test_nobody_there_is_an_unknown_outcome() -> None:
    with pytest.raises(StripeAway):
        pay(StripeApi(KEY, "http://127.0.0.1:9"), "nowhere")


@pytest.mark.parametrize(
    ("card", "code"),
    [
        ("pm_card_chargeDeclined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds"),
    ],
)
def test_a_decline_tells_its_code_which_the_client_itself_does_not(
    api: StripeApi, card: str, code: str
) -> None:
    with pytest.raises(StripeRefused) as refused:
        pay(api, f"decline-{code}", payment_method=card)
    found = refused.value
    assert (found.status, found.code, found.decline_code) == (402, "card_declined", code)
    assert found.payment_intent is not None


def test_what_is_not_there_is_missing(api: StripeApi) -> None:
    with pytest.raises(StripeRefused) as refused:
        api.get("/v1/charges/ch_none")
    assert refused.value.is_missing


def test_a_wrong_key_is_a_refusal_and_no_outage(fake: Fake) -> None:
    with pytest.raises(StripeRefused) as refused:
        StripeApi("pk_test_wrong", fake.url).get("/v1/events")
    assert refused.value.status == 401


def test_version_and_key_go_with_each_request() -> None:
    seen: list[tuple[str, str]] = []
    arrived = threading.Event()

    async def answer(request: Request) -> Response:
        seen.append((request.headers["stripe-version"], request.headers["idempotency-key"]))
        arrived.set()
        return JSONResponse({"object": "payment_intent", "id": "pi_1"})

    with served(Starlette(routes=[Route("/v1/payment_intents", answer, methods=["POST"])])) as url:
        pay(StripeApi(KEY, url), "key-9")
    assert seen == [(API_VERSION, "key-9")]


@pytest.mark.parametrize("body", [b"[]", b"7", b"<html>", b""])
def test_an_answer_that_is_no_object_is_no_answer(body: bytes) -> None:
    async def answer(_: Request) -> Response:
        return Response(body, media_type="application/json")

    app = Starlette(routes=[Route("/v1/charges/ch_1", answer)])
    with served(app) as url, pytest.raises((StripeAway, StripeRefused)):
        StripeApi(KEY, url).get("/v1/charges/ch_1")
