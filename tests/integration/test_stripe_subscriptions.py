"""Subscriptions go back and forth: what they give follows what Stripe shows when it is asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from persistence import plan_tables
from sidecar.billing.periods import DAY_MS
from sidecar.billing.plan_job import PlanJob
from tests.integration.ledger_world import World
from tests.integration.plan_objects import (
    DAY,
    MONTH,
    START,
    Object,
    invoice,
    item,
    line,
    subscription,
)
from tests.integration.plan_world import PlanWorld

START_MS = START * 1000
END_MS = START_MS + MONTH * 1000
GRACE_MS = END_MS + 3 * DAY_MS
YEAR = 365 * DAY


@pytest.fixture
def plans(engine: Engine, redis_client: redis.Redis) -> PlanWorld:
    made = PlanWorld(World(engine, redis_client))
    made.world.put("acme")
    made.plan(allowance=1_000)
    made.stripe.put(subscription())
    return made


@pytest.fixture
def running(plans: PlanWorld) -> PlanWorld:
    """A subscription whose first period is paid."""
    plans.paid(invoice())
    assert plans.state() == "active"
    return plans


def second(**changes: Any) -> Object:
    return invoice("in_2", [line(start=START + MONTH)], "subscription_cycle", **changes)


def row_of(plans: PlanWorld) -> dict[str, Any]:
    (row,) = plans.rows(plan_tables.stripe_subscriptions)
    return row


# Fetching ------------------------------------------------------------------------------------


def test_the_state_that_stripe_shows_counts_not_that_of_the_event(running: PlanWorld) -> None:
    running.apply("customer.subscription.updated", subscription(status="unpaid"))
    assert (running.state(), running.ledger()) == ("active", 1_000)
    running.stripe.put(subscription(status="unpaid"))
    running.apply("customer.subscription.updated", subscription())
    assert (running.state(), running.ledger()) == ("suspended", 0)


def test_what_was_fetched_after_an_event_came_is_not_fetched_again(running: PlanWorld) -> None:
    asked = len(running.stripe.asked)
    now = running.clock.now
    running.apply("customer.subscription.updated", subscription(), received_ms=now - 60_001)
    assert len(running.stripe.asked) == asked
    running.apply("customer.subscription.updated", subscription(), received_ms=now - 60_000)
    assert len(running.stripe.asked) == asked + 1


def test_a_deleted_subscription_is_as_its_event_says(running: PlanWorld) -> None:
    running.stripe.objects.clear()
    running.apply("customer.subscription.deleted", subscription(status="canceled"))
    assert (running.state(), running.ledger()) == ("ended", 0)
    asked = len(running.stripe.asked)
    running.apply("customer.subscription.updated", subscription())
    running.paid(second())
    assert (running.state(), running.ledger()) == ("ended", 0)
    assert len(running.stripe.asked) == asked


def test_an_invoice_of_a_subscription_that_nobody_knows_fails(plans: PlanWorld) -> None:
    plans.stripe.objects.clear()
    outcome = plans.paid(invoice())
    assert (outcome.status, outcome.error) == ("failed", "Stripe has no subscription sub_1")


@pytest.mark.parametrize(
    ("field", "value"),
    [("status", "dormant"), ("customer", None), ("items", None), ("metadata", {"account": "a b"})],
)
def test_what_is_not_as_documented_is_not_guessed(
    running: PlanWorld, field: str, value: Any
) -> None:
    outcome = running.updated(subscription() | {field: value})
    assert outcome.status == "failed"
    assert (running.state(), running.ledger()) == ("active", 1_000)


def test_more_items_than_a_subscription_shows_are_listed(plans: PlanWorld) -> None:
    more = subscription()
    more["items"]["has_more"] = True
    plans.stripe.objects["/v1/subscription_items"] = {"data": [item(), item("si_2", quantity=4)]}
    plans.updated(more)
    assert [each["quantity"] for each in row_of(plans)["items"]] == [1, 4]


def test_a_subscription_of_an_unknown_account_waits_for_it(plans: PlanWorld) -> None:
    outcome = plans.updated(subscription(metadata={"account": "new"}, status="past_due"))
    assert (outcome.status, outcome.waits_for_account) == ("failed", "new")
    assert row_of(plans)["account"] == "new"


def test_a_subscription_of_nobody_is_kept(plans: PlanWorld) -> None:
    assert plans.updated(subscription(metadata={})).status == "applied"
    assert row_of(plans)["account"] is None


# Grace ---------------------------------------------------------------------------------------


def test_a_failed_renewal_is_grace_and_the_old_allowance_lives(running: PlanWorld) -> None:
    running.clock.now = END_MS + 1
    running.stripe.put(subscription(status="past_due"))
    running.apply("invoice.payment_failed", second(status="open"))

    assert (running.state(), running.status()) == ("grace", "grace")
    assert row_of(running)["grace_until_ms"] == GRACE_MS
    assert running.ledger() == 1_000
    assert running.told() == ["plan.grace_started"]
    for _ in range(3):
        running.updated(subscription(status="past_due"))
    assert running.told() == ["plan.grace_started"]


def in_grace(running: PlanWorld) -> PlanWorld:
    running.clock.now = END_MS + 1
    running.updated(subscription(status="past_due"))
    assert running.state() == "grace"
    return running


def test_grace_that_is_over_suspends_the_plan_and_leaves_prepaid_credits(
    running: PlanWorld,
) -> None:
    running.world.grant("acme", 77, "prepaid")
    in_grace(running).clock.now = GRACE_MS - 1
    assert running.job.run_once() == 0
    running.clock.now = GRACE_MS
    assert running.job.run_once() == 1
    assert running.job.run_once() == 0
    assert (running.state(), running.status()) == ("suspended", "active")
    assert running.rests() == {"prepaid": 77}
    assert running.told() == ["plan.grace_started", "plan.grace_ended", "plan.suspended"]


def test_a_late_payment_is_active_again_with_that_periods_grant(running: PlanWorld) -> None:
    in_grace(running).clock.now = GRACE_MS + DAY_MS
    running.job.run_once()
    running.stripe.put(subscription())
    running.paid(second())
    assert (running.state(), running.status()) == ("active", "active")
    assert running.rests() == {f"si_1:{END_MS}:1": 1_000}
    assert running.told()[-1] == "plan.resumed"
    running.world.assert_sound()


def test_a_payment_within_grace_ends_it_without_a_suspension(running: PlanWorld) -> None:
    in_grace(running).stripe.put(subscription())
    running.paid(second())
    assert running.told() == ["plan.grace_started", "plan.grace_ended"]
    assert (running.ledger(), running.status()) == (1_000, "active")


def test_past_due_without_anything_paid_is_suspended_until_the_payment_is_known(
    plans: PlanWorld,
) -> None:
    plans.clock.now = END_MS + 1
    plans.updated(subscription(status="past_due"))
    assert (plans.state(), plans.told()) == ("suspended", [])
    plans.paid(invoice())
    assert (plans.state(), plans.ledger()) == ("grace", 1_000)


def test_the_account_stays_in_grace_while_one_of_its_plans_is(running: PlanWorld) -> None:
    other = subscription("sub_2", items=[item("si_2")])
    details = {"metadata": {"account": "acme"}, "subscription": "sub_2"}
    running.stripe.put(other)
    running.paid(invoice("in_9", [line("si_2")], parent={"subscription_details": details}))
    in_grace_row = subscription(status="past_due")
    running.clock.now = END_MS + 1
    running.updated(in_grace_row)
    running.updated(other)
    assert running.status() == "grace"
    running.updated(subscription(status="canceled"))
    assert running.status() == "active"


# The end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("unpaid", "suspended"),
        ("paused", "suspended"),
        ("canceled", "ended"),
        ("incomplete_expired", "ended"),
    ],
)
def test_these_end_the_allowance_at_once(running: PlanWorld, status: str, state: str) -> None:
    running.updated(subscription(status=status))
    assert (running.state(), running.ledger()) == (state, 0)
    assert running.told() == ["plan.suspended"]
    assert running.rows()[0]["ended_ms"] == running.clock.now
    running.world.assert_sound()


def test_a_last_payment_after_the_end_gives_nothing(plans: PlanWorld) -> None:
    plans.updated(subscription(status="canceled"))
    assert plans.paid(invoice()).status == "applied"
    plans.paid(second())
    assert (plans.state(), plans.ledger()) == ("ended", 0)
    assert plans.job.run_once() == 0


def test_an_end_at_the_end_of_the_period_is_shown_and_takes_nothing_yet(
    running: PlanWorld,
) -> None:
    running.updated(subscription(cancel_at_period_end=True))
    assert row_of(running)["is_ending"] is True
    assert (running.state(), running.ledger()) == ("active", 1_000)


def test_unpaid_then_paid_gives_that_period_and_not_the_ended_one(running: PlanWorld) -> None:
    running.clock.now = END_MS + 1
    running.updated(subscription(status="unpaid"))
    assert running.ledger() == 0
    running.stripe.put(subscription())
    running.paid(second())
    assert running.rests() == {f"si_1:{END_MS}:1": 1_000}
    assert running.told() == ["plan.suspended", "plan.resumed"]


def test_a_payment_seen_before_its_status_is_given_when_the_status_follows(
    running: PlanWorld,
) -> None:
    running.clock.now = END_MS + 1
    running.updated(subscription(status="unpaid"))
    running.paid(second())
    assert running.ledger() == 0
    running.updated(subscription())
    assert running.rests() == {f"si_1:{END_MS}:1": 1_000}


def test_what_ended_stays_ended_when_a_plan_is_resumed(running: PlanWorld) -> None:
    running.updated(subscription(status="paused"))
    running.updated(subscription())
    running.paid(invoice())
    assert (running.state(), running.ledger()) == ("active", 0)


def test_an_incomplete_subscription_gives_nothing_and_tells_nothing(plans: PlanWorld) -> None:
    plans.updated(subscription(status="incomplete"))
    assert (plans.state(), plans.told()) == ("suspended", [])
    plans.stripe.put(subscription())
    plans.paid(invoice())
    assert (plans.state(), plans.ledger(), plans.told()) == ("active", 1_000, [])


def test_a_new_subscription_after_a_canceled_one_gives(running: PlanWorld) -> None:
    running.updated(subscription(status="canceled"))
    details = {"metadata": {"account": "acme"}, "subscription": "sub_2"}
    running.stripe.put(subscription("sub_2", items=[item("si_2")]))
    running.paid(invoice("in_9", [line("si_2")], parent={"subscription_details": details}))
    assert running.ledger() == 1_000


def test_paused_collection_leaves_the_plan_active(running: PlanWorld) -> None:
    running.updated(subscription(pause_collection={"behavior": "void", "resumes_at": None}))
    running.apply("invoice.voided", second(status="void"))
    assert (running.state(), running.ledger()) == ("active", 1_000)


# Invoices ------------------------------------------------------------------------------------


def test_an_invoice_only_moves_forward(running: PlanWorld) -> None:
    def status() -> Any:
        rows = running.rows(plan_tables.stripe_invoices)
        return next(row["status"] for row in rows if row["invoice"] == "in_2")

    running.apply("invoice.finalized", second(status="open"))
    assert status() == "open"
    running.apply("invoice.marked_uncollectible", second(status="uncollectible"))
    running.apply("invoice.payment_failed", second(status="open"))
    assert status() == "uncollectible"
    running.paid(second())
    running.apply("invoice.voided", second(status="void"))
    assert status() == "paid"
    assert running.ledger() == 1_000


# Months of a paid year -------------------------------------------------------------------------


def year(**changes: Any) -> Object:
    return invoice("in_1", [line(price="price_year", end=START + YEAR, **changes)])


@pytest.fixture
def yearly(plans: PlanWorld) -> PlanWorld:
    plans.plan("price_year", allowance=100, allowance_interval="month")
    one = item(price="price_year", current_period_end=START + YEAR)
    plans.stripe.put(subscription(items=[one]))
    plans.paid(year())
    return plans


def test_a_paid_year_gives_the_first_month_at_once_and_each_later_one_when_it_is_due(
    yearly: PlanWorld,
) -> None:
    assert (yearly.ledger(), len(yearly.rows())) == (100, 12)
    assert yearly.job.run_once() == 0
    due = [row["due_ms"] for row in yearly.rows()]
    for number in range(1, 12):
        yearly.clock.now = due[number] - 1
        assert yearly.job.run_once() == 0
        yearly.clock.now = due[number]
        assert yearly.job.run_once() == 1
        assert yearly.rests() == {f"si_1:{due[number]}:1": 100}
    assert sum(row["granted"] for row in yearly.rows()) == 1_200
    yearly.world.assert_sound()


def test_a_plan_that_gives_less_from_now_on_gives_a_paid_year_what_it_was_paid_for(
    yearly: PlanWorld,
) -> None:
    yearly.plan("price_year", allowance=1)
    yearly.clock.now += 40 * DAY_MS
    assert (yearly.job.run_once(), yearly.ledger()) == (1, 100)


def test_a_smaller_quantity_counts_from_the_next_month_on_without_any_invoice(
    plans: PlanWorld,
) -> None:
    plans.plan("price_year", allowance=100, allowance_interval="month")
    one = item(price="price_year", current_period_end=START + YEAR, quantity=3)
    plans.stripe.put(subscription(items=[one]))
    plans.paid(year(quantity=3))
    plans.updated(subscription(items=[one | {"quantity": 2}]))
    assert plans.ledger() == 300
    plans.clock.now += 40 * DAY_MS
    assert (plans.job.run_once(), plans.ledger()) == (1, 200)
    plans.updated(subscription(items=[one | {"quantity": 9}]))
    plans.clock.now += 30 * DAY_MS
    assert (plans.job.run_once(), plans.ledger()) == (1, 300)


def test_no_month_is_given_while_the_plan_is_suspended(yearly: PlanWorld) -> None:
    one = item(price="price_year", current_period_end=START + YEAR)
    yearly.updated(subscription(items=[one], status="unpaid"))
    yearly.clock.now += 40 * DAY_MS
    assert (yearly.job.run_once(), yearly.ledger()) == (0, 0)
    yearly.updated(subscription(items=[one]))
    assert yearly.ledger() == 100


def test_a_removed_item_gives_no_more_months(yearly: PlanWorld) -> None:
    yearly.updated(subscription(items=[item("si_2")]))
    assert yearly.ledger() == 100
    yearly.clock.now += 40 * DAY_MS
    assert (yearly.job.run_once(), yearly.ledger()) == (0, 100)


def test_several_workers_give_each_month_once(yearly: PlanWorld) -> None:
    for number in range(2, 12):
        one = item(f"si_{number}", "price_year", current_period_end=START + YEAR)
        yearly.stripe.put(subscription(f"sub_{number}", items=[one]))
        details = {"metadata": {"account": "acme"}, "subscription": f"sub_{number}"}
        yearly.paid(
            invoice(
                f"in_{number}",
                [line(f"si_{number}", "price_year", end=START + YEAR)],
                parent={"subscription_details": details},
            )
        )
    yearly.clock.now += 32 * DAY_MS
    jobs = [PlanJob(yearly.world.engine, now_ms=yearly.clock) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda job: job.run_once(), jobs))
    done.append(jobs[0].run_once())
    assert sum(done) == 11
    assert yearly.ledger() == 1_100
    assert yearly.world.sql("SELECT count(*) FROM grants") == [22]


def test_an_account_that_can_hold_no_more_does_not_stop_the_others(
    yearly: PlanWorld, caplog: pytest.LogCaptureFixture
) -> None:
    yearly.world.put("other")
    yearly.plan("price_small", allowance=1, allowance_interval="month")
    one = item("si_2", "price_small", current_period_end=START + YEAR)
    yearly.stripe.put(subscription("sub_2", items=[one], metadata={"account": "other"}))
    details = {"metadata": {"account": "other"}, "subscription": "sub_2"}
    bill = [line("si_2", "price_small", end=START + YEAR)]
    yearly.paid(invoice("in_2", bill, parent={"subscription_details": details}))
    yearly.world.grant("acme", 2**53 - 1 - 100)
    yearly.clock.now += 32 * DAY_MS
    assert yearly.job.run_once() == 1
    assert yearly.ledger("other") == 1
    assert "could not grant an allowance" in caplog.text
