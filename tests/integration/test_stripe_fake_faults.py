"""What goes wrong at our fake Stripe when it is told to: faults, keys, old events."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tests.integration.fake_stripe import Fake, client_of, running

DAY = 86_400
PATH = "/v1/payment_intents"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as started:
        yield started


def pay(fake: Fake, key: str = "k1", client: stripe.StripeClient | None = None) -> Any:
    return (client or fake.client).v1.payment_intents.create(
        {"amount": 1000, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"},
        {"idempotency_key": key},
    )


def code_of(error: stripe.StripeError) -> str | None:
    return error.error.code if error.error else None


def paid(fake: Fake) -> int:
    """Return how many payments have succeeded."""
    return len(fake.events(kind="payment_intent.succeeded"))


def test_an_error_before_the_effect_is_forgotten_with_its_key(fake: Fake) -> None:
    fake.fault("error_before", method="POST", path=PATH)
    with pytest.raises(stripe.APIError) as broken:
        pay(fake)
    assert (broken.value.http_status, paid(fake)) == (500, 0)
    assert (pay(fake).status, paid(fake)) == ("succeeded", 1)


def test_an_error_after_the_effect_is_kept_with_its_key(fake: Fake) -> None:
    fake.fault("error_after", path=PATH)
    for _ in range(2):
        with pytest.raises(stripe.APIError) as broken:
            pay(fake)
        assert broken.value.http_status == 500
    assert paid(fake) == 1
    (found,) = fake.client.v1.payment_intents.list().data
    assert found.status == "succeeded"


def test_a_decline_that_is_not_told_is_an_error_too(fake: Fake) -> None:
    fake.fault("error_after", path=PATH)
    with pytest.raises(stripe.APIError):
        fake.client.v1.payment_intents.create(
            {"amount": 1, "currency": "usd", "confirm": True,
             "payment_method": "pm_card_chargeDeclined"}
        )  # fmt: skip
    assert "payment_intent.payment_failed" in fake.types()


def test_a_time_out_after_the_effect_gives_the_answer_to_the_same_key_later(fake: Fake) -> None:
    fake.fault("timeout_after", path=PATH, seconds=5)
    with pytest.raises(stripe.APIConnectionError):
        pay(fake, client=client_of(fake.url, timeout_seconds=0.1))
    assert paid(fake) == 1
    again = pay(fake)
    assert (again.status, paid(fake)) == ("succeeded", 1)
    assert again.last_response.headers["Idempotent-Replayed"] == "true"


def test_a_connection_that_breaks_after_the_effect_can_be_tried_again(fake: Fake) -> None:
    fake.fault("drop", path=PATH)
    with pytest.raises(stripe.APIConnectionError):
        pay(fake)
    assert (pay(fake).status, paid(fake)) == ("succeeded", 1)


def test_a_key_whose_request_still_runs_is_in_use(fake: Fake) -> None:
    fake.fault("timeout_after", path=PATH, seconds=0.3, is_in_use=True)
    first = threading.Thread(target=pay, args=(fake,))
    first.start()
    while not paid(fake):
        pass
    with pytest.raises(stripe.APIError) as in_use:
        pay(fake)
    assert (in_use.value.http_status, code_of(in_use.value)) == (409, "idempotency_key_in_use")
    first.join()
    assert (pay(fake).status, paid(fake)) == ("succeeded", 1)


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("conflict", stripe.APIError, "lock_timeout"),
        ("rate_limit", stripe.RateLimitError, "rate_limit"),
    ],
)
def test_a_request_may_be_put_off(
    fake: Fake, kind: str, error: type[stripe.StripeError], code: str
) -> None:
    fake.fault(kind, count=2, path=PATH)
    for _ in range(2):
        with pytest.raises(error) as refused:
            pay(fake)
        assert code_of(refused.value) == code
    assert pay(fake).status == "succeeded"


def test_the_next_charge_may_be_declined_whatever_the_card(fake: Fake) -> None:
    fake.fault("decline", path=PATH, decline_code="lost_card")
    with pytest.raises(stripe.CardError) as declined:
        pay(fake, "k1")
    assert declined.value.error is not None
    assert declined.value.error.decline_code == "lost_card"
    assert pay(fake, "k2").status == "succeeded"
    with pytest.raises(stripe.CardError):
        pay(fake, "k1")


def test_a_fault_meets_only_what_it_is_for_until_it_is_cleared(fake: Fake) -> None:
    fake.fault("error_before", method="GET", path="/v1/customers", count=9)
    fake.client.v1.customers.create()
    assert fake.client.v1.payment_intents.list().data == []
    with pytest.raises(stripe.APIError):
        fake.client.v1.customers.list()
    fake.control("faults/clear")
    assert len(fake.client.v1.customers.list().data) == 1
    answer = fake.http.post(f"{fake.url}/_fake/faults", json={"kind": "nonsense"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "kind")


def test_a_key_charges_again_after_24_hours(fake: Fake) -> None:
    first = pay(fake)
    fake.advance(DAY - 60)
    assert pay(fake).id == first.id
    fake.advance(60)
    assert pay(fake).id != first.id
    assert paid(fake) == 2


def test_events_are_kept_for_30_days(fake: Fake) -> None:
    pay(fake, "k1")
    old = fake.events()[0]["id"]
    fake.advance(days=29)
    assert fake.client.v1.events.retrieve(old).id == old
    pay(fake, "k2")
    fake.advance(days=1, seconds=10)
    with pytest.raises(stripe.InvalidRequestError, match="No such"):
        fake.client.v1.events.retrieve(old)
    kinds = [event.type for event in fake.client.v1.events.list().data]
    assert kinds.count("payment_intent.succeeded") == 1


def test_the_clock_is_moved_by_the_control_only(fake: Fake) -> None:
    before = fake.state.now()
    after = fake.advance(1000)
    assert after == before + 1000
    assert fake.client.v1.customers.create().created == after
    assert fake.events()[-1]["created"] == after
    answer = fake.http.post(f"{fake.url}/_fake/clock", json={"advance_seconds": -1})
    assert (answer.status_code, fake.state.now()) == (400, after)


def test_without_the_control_the_clock_goes_as_time_does() -> None:
    with running(is_frozen=False) as fake:
        fake.control("settings", fee_seconds=0)
        pay(fake)
        assert fake.types()[-1] == "charge.updated"
        assert abs(fake.state.now() - time.time()) < 60
