"""Paid invoices become allowances: once a period, whatever order their events come in."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from persistence import plan_tables
from sidecar.billing.periods import DAY_MS, HOUR_MS
from sidecar.domain import MAX_AMOUNT, Category
from tests.integration.ledger_world import World
from tests.integration.plan_objects import (
    DAY,
    MONTH,
    START,
    Object,
    as_invoice_item,
    credit,
    debit,
    invoice,
    item,
    line,
    subscription,
)
from tests.integration.plan_world import PlanWorld

START_MS = START * 1000
MONTH_MS = MONTH * 1000


@pytest.fixture
def plans(engine: Engine, redis_client: redis.Redis) -> PlanWorld:
    made = PlanWorld(World(engine, redis_client))
    made.world.put("acme")
    made.plan(allowance=1_000)
    made.stripe.put(subscription())
    return made


def renewal(number: int, quantity: int = 1, **changes: Any) -> Object:
    """Return the paid invoice of a later period."""
    start = START + number * MONTH
    lines = [line(quantity=quantity, start=start, **changes)]
    return invoice(f"in_{number + 1}", lines, "subscription_cycle")


# What gives, and what does not ---------------------------------------------------------------


def test_a_paid_invoice_gives_the_plans_allowance_times_the_quantity(plans: PlanWorld) -> None:
    plans.stripe.put(subscription(items=[item(quantity=3)]))
    assert plans.paid(invoice(lines=[line(quantity=3)])).status == "applied"

    assert plans.ledger() == 3_000
    assert plans.rests() == {f"si_1:{START_MS}:1": 3_000}
    (row,) = plans.rows()
    assert (row["target"], row["granted"], row["quantity"]) == (3_000, 3_000, 3)
    (grant,) = plans.world.sql("SELECT category, reference, expires_at_ms FROM grants")
    assert grant == ("allowance", "in_1", START_MS + MONTH_MS + 3 * DAY_MS)
    plans.world.assert_sound()


def test_the_same_period_in_any_number_of_events_gives_once(plans: PlanWorld) -> None:
    for _ in range(3):
        plans.paid(invoice())
        plans.paid(invoice("in_other"))
    assert plans.ledger() == 1_000
    assert plans.world.sql("SELECT count(*) FROM grants") == [1]


def test_payment_succeeded_and_updated_give_nothing(plans: PlanWorld) -> None:
    assert plans.apply("invoice.payment_succeeded", invoice()).status == "ignored"
    assert plans.updated(subscription()).status == "applied"
    assert plans.ledger() == 0


@pytest.mark.parametrize(
    "reason",
    ["subscription_threshold", "manual", "upcoming", "automatic_pending_invoice_item_invoice"],
)
def test_other_reasons_give_nothing(plans: PlanWorld, reason: str) -> None:
    assert plans.paid(invoice(reason=reason)).status == "applied"
    assert plans.ledger() == 0


def test_a_reason_that_is_new_to_us_is_not_guessed(plans: PlanWorld) -> None:
    outcome = plans.paid(invoice(reason="subscription_gift"))
    assert outcome.status == "failed"
    assert "billing_reason" in str(outcome.error)
    assert plans.rows(plan_tables.stripe_invoices) == []


def test_prorations_and_one_off_items_of_a_renewal_give_nothing(plans: PlanWorld) -> None:
    one_off = as_invoice_item(debit())
    one_off["parent"]["invoice_item_details"]["proration"] = False
    lines = [line(), debit(quantity=9), as_invoice_item(debit(quantity=9)), one_off]
    plans.paid(invoice(lines=lines))
    assert plans.ledger() == 1_000


def test_an_invoice_without_a_subscription_is_ignored(plans: PlanWorld) -> None:
    assert plans.paid(invoice(parent=None)).status == "ignored"


def test_several_lines_of_one_item_are_parts_of_its_quantity(plans: PlanWorld) -> None:
    plans.paid(invoice(lines=[line(quantity=5), line(quantity=3)]))
    assert plans.ledger() == 8_000


def test_each_item_has_a_plan_of_its_own(plans: PlanWorld) -> None:
    plans.plan("price_more", allowance=70)
    plans.paid(invoice(lines=[line(), line("si_2", "price_more", 2)]))
    assert sorted(plans.rests().values()) == [140, 1_000]


def test_more_lines_than_the_event_has_are_asked_for(plans: PlanWorld) -> None:
    plans.plan("price_more", allowance=70)
    lines = [line(), line("si_2", "price_more", 2)]
    plans.stripe.objects["/v1/invoices/in_1/lines"] = {"data": lines}
    one = invoice(lines=lines[:1])
    one["lines"]["has_more"] = True
    plans.paid(one)
    assert plans.ledger() == 1_140


def test_an_invoice_that_costs_nothing_for_a_coupon_counts_as_paid(plans: PlanWorld) -> None:
    plans.paid(invoice(amount_paid=0))
    assert plans.ledger() == 1_000


# Plans and accounts that are not there -------------------------------------------------------


def test_no_plan_for_the_price_fails_until_there_is_one(plans: PlanWorld) -> None:
    one = invoice(lines=[line(price="price_new")])
    outcome = plans.paid(one)
    assert outcome.status == "failed"
    assert outcome.error == "there is no plan for the price price_new"
    assert plans.ledger() == 0

    plans.plan("price_new", allowance=5)
    assert plans.paid(one).status == "applied"
    assert plans.ledger() == 5


def test_a_changed_plan_counts_from_the_next_paid_invoice_on(plans: PlanWorld) -> None:
    plans.paid(invoice())
    plans.plan(allowance=7)
    plans.paid(invoice())
    plans.updated(subscription())
    assert plans.ledger() == 1_000
    plans.paid(renewal(1))
    assert plans.ledger() == 7


def test_an_allowance_beyond_all_bounds_is_not_understood(plans: PlanWorld) -> None:
    plans.plan(allowance=MAX_AMOUNT)
    assert plans.paid(invoice(lines=[line(quantity=2)])).status == "failed"
    plans.world.grant("acme", 5)
    outcome = plans.paid(invoice())
    assert outcome.status == "failed"
    assert plans.ledger() == 5


def test_an_unknown_account_is_waited_for(plans: PlanWorld) -> None:
    details = {"subscription_details": {"metadata": {"account": "new"}, "subscription": "sub_1"}}
    one = invoice(parent=details)
    outcome = plans.paid(one)
    assert (outcome.status, outcome.waits_for_account) == ("failed", "new")
    plans.world.put("new")
    assert plans.paid(one).status == "applied"
    assert (plans.ledger("new"), plans.ledger()) == (1_000, 0)


def without_metadata(**changes: Any) -> Object:
    details = {"subscription_details": {"metadata": {}, "subscription": "sub_1"}}
    return invoice(parent=details, **changes)


def test_without_metadata_the_account_is_that_of_the_customer(plans: PlanWorld) -> None:
    plans.stripe.put(subscription(metadata={}))
    outcome = plans.paid(without_metadata())
    assert outcome.status == "failed"
    assert outcome.error == "no account has the customer cus_1"
    assert outcome.waits_for_account is None

    plans.world.put("other", stripe_customer="cus_1")
    assert plans.paid(without_metadata()).status == "applied"
    assert plans.ledger("other") == 1_000


def test_two_accounts_of_one_customer_are_not_guessed_between(plans: PlanWorld) -> None:
    plans.stripe.put(subscription(metadata={}))
    plans.world.put("one", stripe_customer="cus_1")
    plans.world.put("two", stripe_customer="cus_1")
    outcome = plans.paid(without_metadata())
    assert outcome.status == "failed"
    assert "one and two" in str(outcome.error)


# Renewals ------------------------------------------------------------------------------------


def test_the_next_period_ends_what_is_left_of_the_one_before(plans: PlanWorld) -> None:
    plans.paid(invoice())
    plans.paid(renewal(1))
    assert plans.rests() == {f"si_1:{START_MS + MONTH_MS}:1": 1_000}
    assert plans.ledger() == 1_000
    plans.world.assert_sound()


def test_a_renewal_ends_its_own_allowance_and_no_bonus_and_nothing_bought(
    plans: PlanWorld,
) -> None:
    plans.world.grant("acme", 50, "bonus", category=Category.PROMO)
    plans.world.grant("acme", 70, "bought")
    plans.paid(invoice())
    plans.paid(renewal(1))
    assert plans.rests() == {
        "bonus": 50,
        "bought": 70,
        f"si_1:{START_MS + MONTH_MS}:1": 1_000,
    }
    plans.world.assert_sound()


def test_up_to_the_cap_rolls_over_and_is_capped_again(plans: PlanWorld) -> None:
    plans.plan(allowance=1_000, rollover_cap=300)
    plans.paid(invoice())
    plans.paid(renewal(1))
    assert plans.ledger() == 1_300
    plans.paid(renewal(2))
    assert plans.ledger() == 1_300
    plans.world.assert_sound()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_periods_in_any_order_end_alike(plans: PlanWorld, order: tuple[int, ...]) -> None:
    plans.plan(allowance=1_000, rollover_cap=300)
    periods = [invoice(), renewal(1), renewal(2)]
    for number in order:
        plans.paid(periods[number])
    assert plans.ledger() == 1_300
    assert [row["granted"] for row in plans.rows()] == [1_000] * 3


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_periods_of_plans_with_other_caps_in_any_order_end_alike(
    plans: PlanWorld, order: tuple[int, ...]
) -> None:
    plans.plan("price_a", allowance=500, rollover_cap=450)
    plans.plan("price_b", allowance=20, rollover_cap=30)
    plans.plan("price_c", allowance=100, rollover_cap=400)
    periods = [invoice(lines=[line(price="price_a")]), renewal(1, price="price_b")]
    periods.append(renewal(2, price="price_c"))
    for number in order:
        plans.paid(periods[number])
    # 500 leaves 30 at the second period, so 50 are left at the third, all of which roll over.
    assert plans.ledger() == 150


def test_what_is_used_of_a_period_does_not_roll_over(plans: PlanWorld) -> None:
    plans.plan(allowance=1_000, rollover_cap=300)
    plans.paid(invoice())
    plans.sync()
    plans.world.account().debit("d1", 900)
    plans.paid(renewal(1))
    assert plans.ledger() == 1_100
    plans.world.assert_sound()


def test_a_period_that_would_have_expired_by_now_is_not_given(plans: PlanWorld) -> None:
    plans.clock.now = START_MS + 2 * MONTH_MS
    plans.paid(invoice())
    assert plans.ledger() == 0
    plans.paid(renewal(1))
    assert plans.ledger() == 1_000


def paid_at(made: Object, at: int) -> Object:
    return made | {"status_transitions": {"paid_at": at}}


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_periods_that_all_come_late_end_as_if_they_had_come_in_time(
    plans: PlanWorld, order: tuple[int, ...]
) -> None:
    plans.plan(allowance=100, rollover_cap=250)
    plans.clock.now = START_MS + 3 * MONTH_MS + HOUR_MS
    made = [invoice(), *(renewal(number) for number in (1, 2, 3))]
    periods = [paid_at(one, START + n * MONTH + 3_600) for n, one in enumerate(made)]
    for number in order:
        plans.paid(periods[number])
    assert plans.ledger() == 100 + 250
    plans.world.assert_sound()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_what_expired_before_the_next_period_was_paid_is_not_carried_over(
    plans: PlanWorld, order: tuple[int, ...]
) -> None:
    plans.plan(allowance=100, rollover_cap=250)
    plans.clock.now = START_MS + 2 * MONTH_MS + HOUR_MS
    periods = [
        paid_at(invoice(), START),
        paid_at(renewal(1), START + MONTH + 4 * DAY),
        paid_at(renewal(2), START + 2 * MONTH + 3_600),
    ]
    for number in order:
        plans.paid(periods[number])
    assert plans.ledger() == 100 + 100


def test_grace_of_no_days_leaves_two_hours(plans: PlanWorld) -> None:
    plans.plan(grace_days=0)
    plans.paid(invoice())
    (row,) = plans.rows()
    assert row["expires_ms"] == START_MS + MONTH_MS + 2 * HOUR_MS


# Trials --------------------------------------------------------------------------------------


def trial(**changes: Any) -> Object:
    return subscription(trial_start=START, trial_end=START + 7 * DAY, **changes)


def trial_invoice() -> Object:
    lines = [line(quantity=2, end=START + 7 * DAY, amount=0)]
    return invoice("in_0", lines, amount_paid=0)


def test_a_trials_invoice_gives_the_trial_allowance_only(plans: PlanWorld) -> None:
    plans.plan(trial_allowance=40)
    plans.stripe.put(trial(status="trialing"))
    plans.paid(trial_invoice())
    assert plans.ledger() == 80
    plans.stripe.put(trial())
    plans.paid(invoice("in_1", [line(start=START + 7 * DAY)], "subscription_cycle"))
    assert plans.ledger() == 1_000


def test_a_trials_invoice_that_comes_after_the_trial_is_still_one(plans: PlanWorld) -> None:
    plans.plan(trial_allowance=40)
    plans.stripe.put(trial() | {"trial_end": START + DAY})
    plans.paid(invoice("in_1", [line(start=START + DAY)], "subscription_cycle"))
    plans.paid(trial_invoice())
    assert plans.ledger() == 1_000


def test_a_trial_without_an_allowance_gives_nothing(plans: PlanWorld) -> None:
    plans.stripe.put(trial(status="trialing"))
    assert plans.paid(trial_invoice()).status == "applied"
    assert (plans.ledger(), plans.state()) == (0, "active")


# Upgrades ------------------------------------------------------------------------------------


def change(
    id: str, to: int, at: int, *, was: int = 1, price: str = "price_pro", **changes: Any
) -> Object:
    """Return the paid invoice of a change of the quantity."""
    lines = [credit(was, at), debit(to, at, price)]
    return invoice(id, lines, "subscription_update", **changes)


HALF = START + MONTH // 2


def test_an_upgrade_gives_the_share_of_the_difference(plans: PlanWorld) -> None:
    plans.paid(invoice())
    plans.stripe.put(subscription(items=[item(quantity=4)]))
    plans.paid(change("in_2", 4, HALF))
    assert plans.ledger() == 1_000 + 1_500
    assert list(plans.rests()) == [f"si_1:{START_MS}:1", f"si_1:{START_MS}:2"]


def test_a_full_upgrade_gives_all_of_the_difference(plans: PlanWorld) -> None:
    plans.plan(upgrade_allowance="full")
    plans.paid(invoice())
    plans.paid(change("in_2", 4, HALF))
    assert plans.ledger() == 4_000


def test_an_upgrade_to_another_price_counts_by_the_new_plan(plans: PlanWorld) -> None:
    plans.plan("price_max", allowance=3_001)
    plans.stripe.put(subscription(items=[item(price="price_max")]))
    plans.paid(invoice())
    classic = [as_invoice_item(credit()), as_invoice_item(debit(1, HALF, "price_max"))]
    plans.paid(invoice("in_2", classic, "subscription_update"))
    assert plans.ledger() == 1_000 + 2_001 // 2


def test_an_invoice_item_of_a_price_that_no_item_has_any_more_is_asked_for(
    plans: PlanWorld,
) -> None:
    plans.plan("price_max", allowance=3_000)
    plans.stripe.put(subscription(items=[item(price="price_a"), item("si_2", "price_b")]))
    up = as_invoice_item(debit(1, HALF, "price_max", "si_2"))
    details = {"subscription_details": {"subscription_item": "si_2", "subscription": "sub_1"}}
    id = up["parent"]["invoice_item_details"]["invoice_item"]
    plans.stripe.objects[f"/v1/invoiceitems/{id}"] = {"parent": details}
    plans.paid(invoice("in_2", [up], "subscription_update"))
    assert plans.rests() == {f"si_2:{START_MS}:1": 1_500}


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_up_down_up_in_seconds_gives_nothing_twice(
    plans: PlanWorld, order: tuple[int, ...]
) -> None:
    plans.stripe.put(subscription(items=[item(quantity=3)]))
    one = invoice()
    steps = [
        one,
        change("in_2", 3, HALF),
        change("in_3", 1, HALF + 1, was=3),
        change("in_4", 3, HALF + 2),
    ]
    for number in order:
        assert plans.paid(steps[number]).status == "applied"
    assert plans.ledger() == 1_000 + 1_000
    plans.world.assert_sound()


def test_a_downgrade_takes_nothing_back(plans: PlanWorld) -> None:
    plans.paid(invoice(lines=[line(quantity=3)]))
    plans.paid(change("in_2", 1, HALF, was=3, amount_paid=0))
    assert plans.ledger() == 3_000


def test_an_upgrade_that_is_not_paid_gives_nothing(plans: PlanWorld) -> None:
    plans.paid(invoice())
    plans.updated(subscription(items=[item(quantity=4)]))
    plans.apply("invoice.payment_failed", change("in_2", 4, HALF, status="open"))
    assert plans.ledger() == 1_000


def test_an_upgrade_before_its_renewal_ends_alike(plans: PlanWorld) -> None:
    plans.stripe.put(subscription(items=[item(quantity=4)]))
    plans.paid(change("in_2", 4, HALF))
    assert plans.ledger() == 2_000
    plans.paid(invoice())
    assert plans.ledger() == 2_500


def test_an_upgrade_of_a_period_that_is_over_waits_for_its_invoice(plans: PlanWorld) -> None:
    later = item(current_period_start=START + MONTH, current_period_end=START + 2 * MONTH)
    plans.stripe.put(subscription(items=[later | {"quantity": 4}]))
    plans.paid(renewal(1, quantity=4))
    outcome = plans.paid(change("in_9", 4, HALF))
    assert (outcome.status, "is not known yet" in str(outcome.error)) == ("failed", True)
    plans.paid(invoice())
    assert plans.paid(change("in_9", 4, HALF)).status == "applied"
    assert plans.ledger() == 4_000
    assert [row["granted"] for row in plans.rows()] == [2_500, 4_000]


def test_an_item_that_was_added_gives_the_share_of_the_subscriptions_period(
    plans: PlanWorld,
) -> None:
    plans.plan("price_more", allowance=100)
    new = item("si_2", "price_more", current_period_start=HALF)
    plans.stripe.put(subscription(items=[item(), new]))
    plans.paid(invoice())
    added = debit(1, HALF, "price_more", "si_2")
    plans.paid(invoice("in_2", [added], "subscription_update"))
    assert plans.rests() == {f"si_1:{START_MS}:1": 1_000, f"si_2:{START_MS}:1": 50}


def test_a_change_from_month_to_year_begins_a_new_period(plans: PlanWorld) -> None:
    plans.plan("price_year", allowance=12_000)
    plans.paid(invoice())
    year = line(price="price_year", start=HALF, end=HALF + 365 * DAY)
    plans.paid(invoice("in_2", [credit(1, HALF), year], "subscription_update"))
    assert plans.rests() == {f"si_1:{HALF * 1000}:1": 12_000}


def test_a_removed_items_allowance_lives_to_its_end(plans: PlanWorld) -> None:
    plans.plan("price_more", allowance=70)
    plans.paid(invoice(lines=[line(), line("si_2", "price_more")]))
    plans.updated(subscription())
    plans.paid(invoice("in_2", [credit(1, HALF, "price_more", "si_2")], "subscription_update"))
    assert sorted(plans.rests().values()) == [70, 1_000]


# What operators see --------------------------------------------------------------------------


def test_the_read_model_shows_what_each_period_gave(plans: PlanWorld) -> None:
    plans.updated(subscription(cancel_at_period_end=True))
    plans.paid(invoice())
    plans.paid(renewal(1))
    (shown,) = plans.shown()
    assert (shown["subscription"], shown["status"], shown["state"]) == ("sub_1", "active", "active")
    assert (shown["is_ending"], shown["grace_until_ms"]) == (True, None)
    assert shown["items"][0]["price"] == "price_pro"
    newest, oldest = shown["allowances"]
    assert (newest["starts_ms"], newest["target"], newest["granted"]) == (
        START_MS + MONTH_MS,
        1_000,
        1_000,
    )
    assert (newest["ended_ms"], oldest["ended_ms"]) == (None, plans.clock.now)
    assert plans.shown("nobody") == []
