"""Auto top-up: when a charge is begun and when not, how large it is, and what it becomes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, text

from persistence import accounts
from sidecar.billing import auto_top_up_hooks as hooks
from sidecar.billing.auto_top_up import AutoTopUp
from sidecar.domain import AccountStatus
from tests.integration.fake_stripe import Fake, running
from tests.integration.top_up_world import AMOUNT, DAY_MS, MINUTE_MS, THRESHOLD, TopUpWorld


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as started:
        yield started


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis, fake: Fake) -> TopUpWorld:
    return TopUpWorld(engine, redis_client, fake)


def test_an_account_below_its_threshold_is_charged_once_and_credited_by_the_event(
    world: TopUpWorld,
) -> None:
    world.begin()
    world.run()
    assert world.charged() == [1_000]
    assert (world.statuses(), world.available()) == (["charged"], 1_000_000)
    world.deliver()
    assert (world.statuses(), world.available()) == (["succeeded"], 11_000_000)
    (attempt,) = world.attempts()
    assert attempt["payment_intent"] == world.payments()[0]["id"]
    assert world.alerts() == [("top_up.succeeded", None)]
    world.later(2 * MINUTE_MS)
    assert world.charged() == [1_000]
    world.assert_sound()


def test_what_is_sent_names_the_card_the_order_and_that_nobody_is_there(world: TopUpWorld) -> None:
    world.begin()
    world.run()
    (attempt,), (sent,) = world.attempts(), world.parameters()
    assert sent == {
        "amount": 1_000,
        "currency": "usd",
        "customer": world.customer,
        "payment_method": world.card,
        "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        "off_session": True,
        "confirm": True,
        "error_on_requires_action": True,
        "description": "Auto top-up of acme",
        "metadata": {"purpose": "topup", "order_id": attempt["order_id"], "account": "acme"},
    }
    order = world.order(attempt)
    assert (order["purpose"], order["credits"], order["price"]) == ("auto_top_up", AMOUNT, 1_000)


def test_one_charge_closes_a_gap_of_several_amounts(world: TopUpWorld) -> None:
    world.begin(1_000_000, threshold=31_000_001)
    world.run()
    assert world.charged() == [4_000]
    world.deliver()
    assert world.available() == 41_000_000
    world.later(2 * MINUTE_MS)
    assert world.charged() == [4_000]


def test_exactly_at_the_threshold_nothing_is_charged(world: TopUpWorld) -> None:
    world.begin(THRESHOLD)
    world.run()
    assert (world.payments(), world.setting()["due_ms"]) == ([], None)
    world.use(1)
    world.hint()
    world.run()
    assert world.charged() == [1_000]


def test_credits_on_their_way_to_redis_count_as_there(world: TopUpWorld) -> None:
    world.begin()
    world.world.grant("acme", THRESHOLD, "a-gift-on-its-way")
    assert world.available() == 1_000_000
    world.run()
    assert world.payments() == []


def test_held_credits_are_not_available(world: TopUpWorld) -> None:
    world.begin(THRESHOLD)
    assert world.world.account().hold("h1", 1)[0] == "held"
    world.run()
    assert world.charged() == [1_000]


def test_while_redis_is_away_the_ledger_says_what_is_left(world: TopUpWorld) -> None:
    world.begin(THRESHOLD)
    world.world.account().hold("h1", 1)
    with world.engine.begin() as c:
        c.execute(text("UPDATE shards SET is_fenced = false"))
    world.run()
    assert world.payments() == []
    with world.engine.begin() as c:
        c.execute(text("UPDATE auto_top_ups SET threshold = threshold + 1, due_ms = 0"))
    world.run()
    assert world.charged() == [1_000]


@pytest.mark.parametrize(
    "changes", [{"is_enabled": False}, {"paused_reason": "no_card"}, {"due_ms": None}]
)
def test_nothing_is_begun_when_it_is_off_paused_or_not_due(
    world: TopUpWorld, changes: dict[str, Any]
) -> None:
    world.begin(**changes)
    world.run()
    assert (world.attempts(), world.payments()) == ([], [])
    assert world.setting()["due_ms"] is None


@pytest.mark.parametrize("status", [AccountStatus.SUSPENDED, AccountStatus.CLOSED])
def test_an_account_that_may_not_spend_is_not_charged(
    world: TopUpWorld, status: AccountStatus
) -> None:
    world.begin()
    with world.engine.begin() as c:
        accounts.set_status(c, "acme", status, None)
    world.run()
    assert world.payments() == []


def test_between_two_attempts_is_a_minute(world: TopUpWorld) -> None:
    world.begin()
    world.run()
    world.deliver()
    world.use(world.available())
    for _ in range(3):
        world.hint()
        world.run()
    world.later(MINUTE_MS - 1)
    assert len(world.attempts()) == 1
    world.later(1)
    assert world.charged() == [1_000, 1_000]


def test_the_default_payment_method_is_charged_else_the_newest_card(world: TopUpWorld) -> None:
    world.begin()
    methods = world.fake.client.v1.payment_methods
    methods.attach("pm_card_mastercard", {"customer": world.customer})
    world.run()
    assert world.parameters()[0]["payment_method"] == world.card
    methods.detach(world.card)
    newest = methods.attach("pm_card_visa", {"customer": world.customer}).id
    world.deliver()
    world.use(world.available())
    world.later(MINUTE_MS)
    world.hint()
    world.run()
    assert world.parameters()[1]["payment_method"] == newest


@pytest.mark.parametrize("how", ["no customer", "unknown customer", "deleted", "no card"])
def test_without_a_card_it_is_paused_until_there_is_one(world: TopUpWorld, how: str) -> None:
    world.begin()
    methods = world.fake.client.v1.payment_methods
    if how == "no customer":
        world.world.put("acme", stripe_customer=None)
    elif how in ("unknown customer", "deleted"):
        world.world.put("acme", stripe_customer="cus_nobody")
    else:
        methods.detach(world.card)
    world.run()
    assert (world.attempts(), world.setting()["paused_reason"]) == ([], "no_card")
    assert world.alerts() == [("auto_top_up.paused", "no_card")]

    world.world.put("acme", stripe_customer=world.customer)
    methods.attach("pm_card_mastercard", {"customer": world.customer})
    with world.engine.begin() as c:
        hooks.on_new_card(c, world.customer, world.clock())
    world.run()
    assert world.charged() == [1_000]
    assert world.alerts()[1] == ("auto_top_up.resumed", "new_card")


def test_without_a_rate_in_the_price_list_it_waits_and_pauses_nothing(
    world: TopUpWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.begin()
    with world.engine.begin() as c:
        c.execute(text("UPDATE offers SET is_active = false"))
    waits = []
    for _ in range(3):
        world.run()
        waits.append(world.setting()["next_ms"] - world.clock())
        world.pass_time(waits[-1])
    assert waits == [600_000, 1_200_000, 2_400_000]
    assert world.setting()["paused_reason"] is None
    assert "an auto top-up cannot be started" in caplog.text
    with world.engine.begin() as c:
        c.execute(text("UPDATE offers SET is_active = true"))
    world.run()
    assert world.charged() == [1_000]


def test_a_grant_that_came_while_the_card_was_looked_up_is_seen(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.begin()
    real, api = world.api.get, world.api

    def get(path: str, **parameters: Any) -> dict[str, Any]:
        if world.ledger() == 1_000_000:
            world.give(THRESHOLD)
        return real(path, **parameters)

    monkeypatch.setattr(api, "get", get)
    world.run()
    assert world.payments() == []


# The cap of the month -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cap", "amounts"),
    [(AMOUNT - 1, []), (AMOUNT, [1_000]), (2 * AMOUNT - 1, [1_000]), (2 * AMOUNT, [2_000])],
)
def test_the_cap_bounds_a_charge_and_is_reached_exactly(
    world: TopUpWorld, cap: int, amounts: list[int]
) -> None:
    world.begin(0, threshold=2 * AMOUNT, monthly_cap=cap)
    world.run()
    world.deliver()
    assert world.charged() == amounts
    world.later(MINUTE_MS)
    world.hint()
    world.run()
    assert world.charged() == amounts


def test_the_cap_is_told_once_a_month_and_ends_with_it(world: TopUpWorld) -> None:
    world.clock.now = 1_801_411_200_000  # 2027-01-31, 16:00 UTC
    world.begin(0, monthly_cap=AMOUNT)
    world.run()
    world.deliver()
    world.use(world.available())
    for _ in range(3):
        world.later(MINUTE_MS)
        world.hint()
        world.run()
    told = ("auto_top_up.paused", "monthly_cap")
    assert (world.charged(), world.alerts().count(told)) == ([1_000], 1)
    assert world.setting()["next_ms"] == 1_801_411_200_000 + 8 * 3_600_000

    world.clock.now = world.setting()["next_ms"] - 1
    world.run()
    assert world.charged() == [1_000]
    world.clock.now += 1
    world.run()
    assert world.charged() == [1_000, 1_000]
    world.deliver()
    world.use(world.available())
    world.later(MINUTE_MS)
    world.hint()
    world.run()
    assert world.alerts().count(told) == 2


def test_what_was_declined_does_not_count_towards_the_cap(world: TopUpWorld) -> None:
    world.begin(monthly_cap=AMOUNT)
    world.fake.fault("decline", method="POST", path="/v1/payment_intents")
    world.run()
    world.later(DAY_MS)
    assert (world.statuses(), world.charged()) == (["declined", "charged"], [1_000])


# Pauses ---------------------------------------------------------------------------------------


def test_switched_off_before_it_is_sent_nothing_is_charged(world: TopUpWorld) -> None:
    world.begin()
    world.job._starter.run_once()
    world.set(is_enabled=False)
    world.run()
    assert (world.statuses(), world.payments()) == (["canceled"], [])


def test_switched_off_after_it_was_sent_the_outcome_is_still_found_out(world: TopUpWorld) -> None:
    world.begin()
    world.fake.fault("timeout_after", method="POST", path="/v1/payment_intents", seconds=1.5)
    world.run()
    assert world.statuses() == ["unknown"]
    world.set(is_enabled=False)
    world.later(MINUTE_MS)
    assert (world.statuses(), world.charged()) == (["charged"], [1_000])
    world.assert_sound()
    assert world.statuses() == ["succeeded"]


def test_a_dispute_stops_it_and_a_manual_purchase_does_not_help_while_it_is_open(
    world: TopUpWorld,
) -> None:
    world.begin()
    world.run()
    world.deliver()
    payment = world.payments()[0]["id"]
    dispute = world.fake.control("disputes", payment_intent=payment, kind="inquiry")
    world.deliver()
    assert world.setting()["paused_reason"] == "dispute"
    world.use(world.available())
    with world.engine.begin() as c:
        hooks.on_paid(c, "acme", "pi_other", None, world.clock())
    world.later(MINUTE_MS)
    assert (world.charged(), world.setting()["paused_reason"]) == ([1_000], "dispute")

    world.fake.control(f"disputes/{dispute['id']}/close")
    world.deliver()
    with world.engine.begin() as c:
        hooks.on_paid(c, "acme", "pi_other", None, world.clock())
    world.run()
    assert world.charged() == [1_000, 1_000]
    kinds = [kind for kind, _ in world.alerts() if kind.startswith("auto")]
    assert kinds == ["auto_top_up.paused", "auto_top_up.resumed"]


def test_a_fraud_warning_stops_it_until_somebody_saves_the_settings(world: TopUpWorld) -> None:
    world.begin()
    world.run()
    world.deliver()
    world.pass_time(MINUTE_MS)
    world.fake.control("fraud-warnings", payment_intent=world.payments()[0]["id"])
    world.deliver()
    assert world.setting()["paused_reason"] == "fraud_warning"
    world.use(world.available())
    with world.engine.begin() as c:
        hooks.on_new_card(c, world.customer, world.clock())
    world.later(MINUTE_MS)
    assert world.charged() == [1_000]
    with world.engine.begin() as c:
        hooks.on_saved(c, "acme", world.clock())
    world.run()
    assert world.charged() == [1_000, 1_000]


def test_a_claim_that_no_hook_told_of_is_found_before_a_charge(world: TopUpWorld) -> None:
    world.begin()
    world.run()
    world.deliver()
    world.pass_time(MINUTE_MS)
    world.fake.control("disputes", payment_intent=world.payments()[0]["id"], kind="inquiry")
    world.deliver()
    world.set(paused_reason=None)
    world.use(world.available())
    world.hint()
    world.run()
    assert (world.charged(), world.setting()["paused_reason"]) == ([1_000], "dispute")


def test_a_purchase_by_hand_ends_a_pause(world: TopUpWorld) -> None:
    world.begin(paused_reason="too_many_declines", declines=4, due_ms=None)
    payments = world.fake.client.v1.payment_intents
    payments.create(
        {
            "amount": 100,
            "currency": "usd",
            "customer": world.customer,
            "payment_method": world.card,
            "confirm": True,
            "off_session": True,
            "metadata": {"purpose": "topup", "account": "acme", "credits": "1000000"},
        }
    )
    world.deliver()
    setting = world.setting()
    assert (setting["paused_reason"], setting["declines"]) == (None, 0)
    assert ("auto_top_up.resumed", "manual_purchase") in world.alerts()
    world.run()
    assert world.charged() == [100, 1_000]


def test_hooks_do_nothing_for_accounts_without_auto_top_up(world: TopUpWorld) -> None:
    world.world.opener.open_shards()
    world.world.put("acme", stripe_customer="cus_1")
    subject = {"id": "pi_1", "status": "canceled", "metadata": {"order_id": "order_1"}}
    with world.engine.begin() as c:
        hooks.on_paid(c, "acme", "pi_1", "order_1", 1)
        hooks.on_paid(c, "acme", "pi_1", None, 1)
        for one in (subject, {}, {"metadata": None}, {"metadata": {"order_id": 5}}):
            hooks.on_failed(c, one, 1)
        hooks.pause(c, "acme", "dispute", 1)
        hooks.on_new_card(c, "cus_1", 1)
        hooks.on_saved(c, "acme", 1)
    assert world.alerts() == []


def test_the_interval_between_two_attempts_can_be_set(world: TopUpWorld) -> None:
    world.begin()
    world.job = AutoTopUp(
        world.engine,
        world.api,
        world.standings,
        world.metrics,
        now_ms=world.clock,
        interval_ms=5 * MINUTE_MS,
    )
    world.run()
    world.deliver()
    world.use(world.available())
    world.later(5 * MINUTE_MS - 1)
    assert world.charged() == [1_000]
    world.later(1)
    assert world.charged() == [1_000, 1_000]


def test_what_is_in_flight_is_shown_by_its_status(world: TopUpWorld) -> None:
    world.begin()
    world.run()
    world.later(MINUTE_MS)
    name = "credits_auto_top_ups_in_flight"
    values = [
        world.registry.get_sample_value(name, {"status": status})
        for status in ("pending", "unknown", "charged")
    ]
    assert values == [0, 0, 1]


def test_a_charge_that_cannot_be_credited_yet_blocks_the_next_one(world: TopUpWorld) -> None:
    """Without its event a charge stays in flight for days: better than a second one."""
    world.begin()
    world.run()
    for _ in range(5):
        world.later(DAY_MS)
        world.hint()
        world.run()
    assert (world.charged(), world.statuses()) == ([1_000], ["charged"])
