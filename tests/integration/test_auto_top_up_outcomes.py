"""What becomes of a charge: declines and their pauses, outages, and outcomes that stay unknown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from sidecar.billing import auto_top_up_hooks as hooks
from sidecar.billing.errors import StripeRefused
from sidecar.billing.stripe_api import StripeApi
from tests.integration.fake_stripe import Fake, running
from tests.integration.stripe_inbox import HOUR_MS
from tests.integration.top_up_world import DAY_MS, MINUTE_MS, TopUpWorld

PAYMENTS = {"method": "POST", "path": "/v1/payment_intents"}
SECOND_MS = 1_000


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as started:
        yield started


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis, fake: Fake) -> TopUpWorld:
    return TopUpWorld(engine, redis_client, fake)


@pytest.fixture
def sent(world: TopUpWorld, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The idempotency key and the body of each request that charges, as Stripe gets them."""
    found: list[tuple[str, str]] = []
    client: Any = world.api._client
    real = client.raw_request

    def raw_request(method: str, path: str, **parameters: Any) -> Any:
        if method == "post":
            body = {name: value for name, value in parameters.items() if name != "idempotency_key"}
            found.append((parameters["idempotency_key"], repr(body)))
        return real(method, path, **parameters)

    monkeypatch.setattr(client, "raw_request", raw_request)
    return found


# Declines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ("pm_card_authenticationRequired", "authentication_required"),
        ("pm_card_chargeDeclinedLostCard", "lost_card"),
        ("pm_card_chargeDeclinedStolenCard", "stolen_card"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card"),
        ("pm_card_chargeDeclinedDoNotTryAgain", "do_not_try_again"),
    ],
)
def test_a_card_that_cannot_pay_pauses_at_once_until_there_is_another(
    world: TopUpWorld, card: str, reason: str
) -> None:
    world.begin(card=card)
    world.run()
    world.deliver()
    (attempt,) = world.attempts()
    assert (attempt["status"], world.setting()["paused_reason"]) == ("declined", reason)
    assert attempt["payment_intent"] == world.payments()[0]["id"]
    kinds = [kind for kind, _ in world.alerts()]
    assert kinds == ["top_up.failed", "auto_top_up.paused"]
    for _ in range(5):
        world.later(DAY_MS)
        world.hint()
        world.run()
    assert len(world.attempts()) == 1

    customers = world.fake.client.v1.customers
    new = world.fake.client.v1.payment_methods.attach("pm_card_visa", {"customer": world.customer})
    customers.update(world.customer, {"invoice_settings": {"default_payment_method": new.id}})
    with world.engine.begin() as c:
        hooks.on_new_card(c, world.customer, world.clock())
    world.run()
    assert world.charged() == [1_000]
    world.assert_sound()
    assert world.setting()["paused_reason"] is None


@pytest.mark.parametrize(
    "card", ["pm_card_chargeDeclined", "pm_card_chargeDeclinedProcessingError"]
)
def test_other_declines_wait_an_hour_four_a_day_and_pause_after_four(
    world: TopUpWorld, card: str
) -> None:
    world.begin(card=card)
    at = world.clock()
    world.run()
    waits = []
    for _ in range(3):
        setting = world.setting()
        waits.append((setting["next_ms"] - world.clock()) // HOUR_MS)
        world.later(setting["next_ms"] - world.clock() - 1)
        assert len(world.attempts()) == len(waits)
        world.later(1)
        assert len(world.attempts()) == len(waits) + 1
    assert waits == [1, 4, 24]
    assert world.clock() - at == 29 * HOUR_MS
    setting = world.setting()
    assert (setting["paused_reason"], setting["declines"]) == ("too_many_declines", 4)
    reasons = world.alerts()
    assert [kind for kind, _ in reasons] == ["top_up.failed"] * 4 + ["auto_top_up.paused"]


def test_a_dead_card_is_tried_at_most_four_times_however_often_the_threshold_is_crossed(
    world: TopUpWorld,
) -> None:
    world.begin(card="pm_card_chargeDeclined")
    for _ in range(950):
        world.clock.now += 2 * MINUTE_MS
        world.set(due_ms=world.clock())
        world.run()
    assert world.statuses() == ["declined"] * 4
    assert len(world.payments()) == 4


def test_a_success_forgets_the_declines(world: TopUpWorld) -> None:
    world.begin(card="pm_card_chargeDeclined")
    world.run()
    world.later(HOUR_MS)
    assert world.setting()["declines"] == 2
    world.fake.control(f"cards/{world.card}", decline_code=None)
    world.later(4 * HOUR_MS)
    world.deliver()
    setting = world.setting()
    assert (world.statuses()[-1], setting["declines"], setting["next_ms"]) == ("succeeded", 0, 0)


def test_an_event_and_an_answer_that_tell_of_one_decline_count_once(world: TopUpWorld) -> None:
    world.begin()
    world.fake.fault("decline", **PAYMENTS)
    world.run()
    world.deliver()
    assert world.setting()["declines"] == 1
    assert world.alerts() == [("top_up.failed", "generic_decline")]


def test_a_decline_that_only_an_event_tells_of_ends_the_attempt(world: TopUpWorld) -> None:
    world.begin(card="pm_card_chargeDeclined")
    world.fake.fault("timeout_after", **PAYMENTS, seconds=1.2)
    world.run()
    assert world.statuses() == ["unknown"]
    world.deliver()
    assert (world.statuses(), world.setting()["declines"]) == (["declined"], 1)
    world.later(MINUTE_MS)
    assert len(world.payments()) == 1


@pytest.mark.parametrize(("is_paid", "status"), [(True, "succeeded"), (False, "declined")])
def test_a_payment_that_takes_days_is_in_flight_until_it_is_decided(
    world: TopUpWorld, is_paid: bool, status: str
) -> None:
    world.begin(card="pm_sepa_debit")
    world.run()
    assert world.statuses() == ["charged"]
    world.later(HOUR_MS)
    world.hint()
    world.run()
    (payment,) = world.payments()
    world.fake.control(f"payments/{payment['id']}/settle", paid=is_paid)
    world.deliver()
    assert world.statuses() == [status]
    assert world.ledger() == (11_000_000 if is_paid else 1_000_000)


def test_a_payment_that_was_canceled_is_no_decline(world: TopUpWorld) -> None:
    world.begin()
    world.fake.fault("timeout_after", **PAYMENTS, seconds=1.2)
    world.run()
    (attempt,) = world.attempts()
    subject = {
        "id": "pi_1",
        "object": "payment_intent",
        "status": "canceled",
        "metadata": {"purpose": "topup", "order_id": attempt["order_id"], "account": "acme"},
    }
    with world.engine.begin() as c:
        hooks.on_failed(c, subject, world.clock())
    assert (world.statuses(), world.setting()["declines"]) == (["canceled"], 0)


# Outages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["conflict", "rate_limit", "error_before"])
def test_an_outage_without_an_effect_is_no_decline_and_the_same_key_charges_once(
    world: TopUpWorld, sent: list[tuple[str, str]], kind: str
) -> None:
    world.begin()
    world.fake.fault(kind, **PAYMENTS, count=3)
    world.run()
    for wait_ms in (5 * SECOND_MS, 30 * SECOND_MS, 2 * MINUTE_MS):
        assert world.statuses() == ["unknown"]
        world.later(wait_ms - 1)
        before = len(sent)
        world.later(1)
        assert len(sent) == before + 1
    assert world.charged() == [1_000]
    assert len(set(sent)) == 1
    world.assert_sound()
    assert (world.statuses(), world.setting()["declines"]) == (["succeeded"], 0)


def test_the_waits_while_stripe_is_away_grow_to_half_an_hour(
    world: TopUpWorld, sent: list[tuple[str, str]]
) -> None:
    world.begin()
    world.fake.fault("rate_limit", count=10**6)
    # The card is looked up first, and that is tried again when the claim ends.
    world.run()
    assert (world.attempts(), world.payments()) == ([], [])
    world.fake.control("faults/clear")
    world.fake.fault("rate_limit", **PAYMENTS, count=10**6)
    world.later(30 * SECOND_MS)
    waits = []
    for _ in range(7):
        (attempt,) = world.attempts()
        waits.append((attempt["due_ms"] - world.clock()) // SECOND_MS)
        world.later(attempt["due_ms"] - world.clock())
    assert waits == [5, 30, 120, 600, 1_800, 1_800, 1_800]
    assert len({key for key, _ in sent}) == 1
    assert world.setting()["paused_reason"] is None


@pytest.mark.parametrize("kind", ["timeout_after", "drop"])
def test_without_an_answer_after_the_effect_the_same_key_and_bytes_find_out(
    world: TopUpWorld, sent: list[tuple[str, str]], kind: str
) -> None:
    world.begin()
    world.fake.fault(kind, **PAYMENTS, seconds=1.2)
    world.run()
    assert (world.charged(), world.statuses()) == ([1_000], ["unknown"])
    world.later(5 * SECOND_MS)
    assert (world.charged(), world.statuses()) == ([1_000], ["charged"])
    assert len(sent) == 2
    assert len(set(sent)) == 1
    world.assert_sound()


def test_an_error_after_the_effect_is_repeated_by_stripe_so_the_payment_is_looked_for(
    world: TopUpWorld, sent: list[tuple[str, str]]
) -> None:
    world.begin()
    world.fake.fault("error_after", **PAYMENTS)
    world.run()
    assert (world.charged(), world.statuses()) == ([1_000], ["unknown"])
    world.later(5 * SECOND_MS)
    assert world.statuses() == ["unknown"]
    world.later(30 * SECOND_MS)
    assert (world.charged(), world.statuses()) == ([1_000], ["charged"])
    assert len(set(sent)) == 1
    world.assert_sound()


def test_an_event_settles_an_unknown_outcome_before_the_next_try(
    world: TopUpWorld, sent: list[tuple[str, str]]
) -> None:
    world.begin()
    world.fake.fault("error_after", **PAYMENTS)
    world.run()
    world.assert_sound()
    assert world.statuses() == ["succeeded"]
    world.later(DAY_MS)
    assert (world.charged(), len(sent)) == ([1_000], 1)


def test_after_23_hours_it_is_never_sent_again_but_found(
    world: TopUpWorld, sent: list[tuple[str, str]]
) -> None:
    world.begin()
    world.fake.fault("timeout_after", **PAYMENTS, seconds=1.2)
    world.run()
    world.pass_time(23 * HOUR_MS)
    world.run()
    assert (world.charged(), world.statuses(), len(sent)) == ([1_000], ["charged"], 1)
    world.assert_sound()


def test_after_23_hours_what_is_not_found_did_not_happen_and_a_new_attempt_may_follow(
    world: TopUpWorld, sent: list[tuple[str, str]]
) -> None:
    world.begin()
    world.fake.fault("error_before", **PAYMENTS)
    world.run()
    world.later(23 * HOUR_MS)
    assert (world.payments(), world.statuses(), len(sent)) == ([], ["failed"], 1)
    assert world.setting()["declines"] == 0
    world.later(10 * MINUTE_MS)
    assert (world.charged(), world.statuses()) == ([1_000], ["failed", "charged"])
    assert len({key for key, _ in sent}) == 2
    world.assert_sound()


def test_after_23_hours_it_stays_unknown_while_it_cannot_be_looked_for(
    world: TopUpWorld, sent: list[tuple[str, str]]
) -> None:
    world.begin()
    world.fake.fault("timeout_after", **PAYMENTS, seconds=1.2)
    world.run()
    world.pass_time(23 * HOUR_MS)
    world.fake.fault("error_before", count=10)
    for _ in range(10):
        world.later(30 * MINUTE_MS)
        assert world.statuses() == ["unknown"]
    world.later(30 * MINUTE_MS)
    assert (world.charged(), world.statuses(), len(sent)) == ([1_000], ["charged"], 1)


def test_the_payment_of_a_customer_that_was_deleted_is_found(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.begin()
    world.fake.fault("timeout_after", **PAYMENTS, seconds=1.2)
    world.run()
    real = world.api.get

    def get(path: str, **parameters: Any) -> dict[str, Any]:
        if "customer" in parameters:
            raise StripeRefused("No such customer", status=400, code="resource_missing")
        return real(path, **parameters)

    monkeypatch.setattr(world.api, "get", get)
    world.pass_time(23 * HOUR_MS)
    world.run()
    assert (world.charged(), world.statuses()) == ([1_000], ["charged"])


def test_a_minute_before_23_hours_the_key_is_still_used(
    world: TopUpWorld, sent: list[tuple[str, str]]
) -> None:
    world.begin()
    world.fake.fault("drop", **PAYMENTS)
    world.run()
    world.later(23 * HOUR_MS - MINUTE_MS)
    assert (world.charged(), len(sent), len(set(sent))) == ([1_000], 2, 1)


def test_while_an_outcome_is_unknown_no_other_attempt_begins(world: TopUpWorld) -> None:
    world.begin()
    world.fake.fault("rate_limit", **PAYMENTS, count=10**6)
    world.run()
    for _ in range(20):
        world.set(due_ms=world.clock(), next_ms=0)
        world.later(HOUR_MS)
    assert world.statuses() == ["unknown"]


# Our own fault --------------------------------------------------------------------------------


def test_a_refusal_of_the_request_is_failed_logged_and_no_decline(
    world: TopUpWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.begin()
    world.job._starter.run_once()
    world.fake.client.v1.payment_methods.detach(world.card)
    other = world.fake.client.v1.customers.create({}).id
    world.fake.client.v1.payment_methods.attach(world.card, {"customer": other})
    world.run()
    setting = world.setting()
    assert (world.statuses(), world.payments()) == (["failed"], [])
    assert (setting["declines"], setting["failures"], setting["paused_reason"]) == (0, 1, None)
    assert setting["next_ms"] == world.clock() + 10 * MINUTE_MS
    assert "Stripe refuses an auto top-up, not its card" in caplog.text
    assert world.registry.get_sample_value("credits_auto_top_ups_total", {"outcome": "failed"}) == 1


def test_a_refusal_after_an_unknown_outcome_proves_nothing(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch, sent: list[tuple[str, str]]
) -> None:
    world.begin()
    world.fake.fault("timeout_after", **PAYMENTS, seconds=1.2)
    world.run()
    # The key was revoked meanwhile.
    working = world.api._client
    monkeypatch.setattr(world.api, "_client", StripeApi("wrong", world.fake.url)._client)
    for _ in range(8):
        world.later(30 * MINUTE_MS)
        assert world.statuses() == ["unknown"]
    monkeypatch.setattr(world.api, "_client", working)
    world.later(30 * MINUTE_MS)
    assert (world.charged(), world.statuses()) == ([1_000], ["charged"])
    world.assert_sound()


def test_a_key_that_stripe_does_not_know_waits_and_pauses_nothing(world: TopUpWorld) -> None:
    world.begin()
    right = world.job
    world.job = world.new_job(StripeApi("wrong", world.fake.url))
    world.run()
    setting = world.setting()
    assert (setting["failures"], setting["paused_reason"]) == (1, None)
    world.job = right
    world.later(10 * MINUTE_MS)
    assert world.charged() == [1_000]


def test_money_that_came_although_we_gave_up_is_credited(world: TopUpWorld) -> None:
    world.begin()
    world.fake.fault("timeout_after", **PAYMENTS, seconds=1.2)
    world.run()
    with world.engine.begin() as c:
        c.exec_driver_sql("UPDATE auto_top_up_attempts SET status = 'failed'")
    world.assert_sound()
    assert (world.statuses(), world.ledger()) == (["succeeded"], 11_000_000)


def test_a_status_that_is_new_to_us_is_never_guessed(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.begin()
    real = world.api.post

    def post(path: str, parameters: Any, *, key: str) -> dict[str, Any]:
        return real(path, parameters, key=key) | {"status": "half_paid"}

    monkeypatch.setattr(world.api, "post", post)
    world.run()
    assert world.statuses() == ["unknown"]
    assert "has a status that is not known here" in caplog.text
    world.assert_sound()
    assert world.statuses() == ["succeeded"]
