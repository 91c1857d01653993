"""Plans end the same, whatever the order, the number and the delay of what Stripe tells."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from sidecar.billing.inbox import InboxJob
from sidecar.billing.stripe_api import StripeApi
from sidecar.metrics import WorkerMetrics
from tests.integration import fake_stripe
from tests.integration.fake_stripe import Fake
from tests.integration.plan_runs import TOLD, Scenario, Stage, Story, play, stage_of

SEEDS = int(os.environ.get("CREDITS_TEST_SEEDS", "200"))
"""Of each scenario; CREDITS_TEST_SEEDS plays more, or fewer."""

CHUNK = 20


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_stripe.running() as started:
        yield started


def renewed(stage: Stage, account: str) -> Story:
    """Each renewal ends what was left of the period before."""
    one = stage.subscribe(account, stage.price("pro", 1_000))
    yield
    for _ in range(2):
        stage.renew(one)
        yield
    return 1_000


def paid_late(stage: Stage, account: str) -> Story:
    """A renewal fails, its grace is over, the plan is suspended, and then it is paid."""
    stage.fake.control("settings", after_retries="past_due", retry_days=[1])
    one = stage.subscribe(account, stage.price("pro", 1_000))
    yield
    stage.bank(one, decline_code="generic_decline")
    stage.renew(one)
    yield
    stage.fake.advance(days=5)
    yield
    stage.bank(one)
    stage.pay(one)
    yield
    return 1_000


def never_paid(stage: Stage, account: str) -> Story:
    """A renewal fails, and after its grace nothing is left."""
    stage.fake.control("settings", after_retries="past_due", retry_days=[1])
    one = stage.subscribe(account, stage.price("pro", 1_000))
    yield
    stage.bank(one, decline_code="generic_decline")
    stage.renew(one)
    yield
    stage.fake.advance(days=5)
    yield
    return 0


def canceled(stage: Stage, account: str) -> Story:
    """What is canceled gives nothing, and the next subscription of the account gives its own."""
    price = stage.price("pro", 1_000)
    one = stage.subscribe(account, price)
    yield
    stage.renew(one)
    yield
    stage.fake.client.v1.subscriptions.cancel(one.id)
    yield
    two = stage.subscribe(account, stage.price("small", 70))
    stage.fake.client.v1.subscriptions.update(two.id, {"cancel_at_period_end": True})
    yield
    return 70


def unpaid(stage: Stage, account: str) -> Story:
    """Unpaid after the last retry, and active again when the invoice is paid."""
    stage.fake.control("settings", after_retries="unpaid", retry_days=[1])
    one = stage.subscribe(account, stage.price("pro", 1_000))
    yield
    stage.bank(one, decline_code="generic_decline")
    stage.renew(one)
    yield
    stage.fake.advance(days=1.5)
    assert stage.shown(one)["status"] == "unpaid"
    yield
    stage.bank(one)
    stage.pay(one)
    assert stage.shown(one)["status"] == "active"
    yield
    return 1_000


def tried(stage: Stage, account: str) -> Story:
    """A trial gives its allowance, and the first paid period ends it."""
    price = stage.price("trial", 1_000, trial_allowance=40)
    one = stage.subscribe(account, price, trial_period_days=7)
    yield
    stage.renew(one)
    assert stage.shown(one)["status"] == "active"
    yield
    return 1_000


def paused(stage: Stage, account: str) -> Story:
    """A trial without a card pauses at its end; resumed with one, the plan gives again."""
    price = stage.price("trial", 1_000, trial_allowance=40)
    ends = {"end_behavior": {"missing_payment_method": "pause"}}
    one = stage.subscribe(account, price, has_card=False, trial_period_days=7, trial_settings=ends)
    yield
    stage.renew(one)
    assert stage.shown(one)["status"] == "paused"
    yield
    methods = stage.fake.client.v1.payment_methods
    card = methods.attach("pm_card_visa", {"customer": stage.shown(one)["customer"]}).id
    stage.fake.client.v1.subscriptions.update(one.id, {"default_payment_method": card})
    stage.fake.client.v1.subscriptions.resume(one.id)
    assert stage.shown(one)["status"] == "active"
    yield
    return 1_000


def up_down_up(stage: Stage, account: str) -> Story:
    """Up, down and up again within seconds gives the share of the difference once."""
    one = stage.subscribe(account, stage.price("pro", 1_000))
    yield
    stage.fake.advance(days=10)
    item: Any = stage.shown(one)["items"]["data"][0]
    start, end = item["current_period_start"], item["current_period_end"]
    stage.change(one, quantity=3)
    line = stage.fake.state.objects[stage.shown(one)["latest_invoice"]]["lines"]["data"][-1]
    yield
    stage.change(one, quantity=1)
    yield
    stage.change(one, quantity=3)
    yield
    stage.change(one, quantity=2)
    yield
    return 1_000 + int(2_000 * (end - line["period"]["start"]) // (end - start))


def yearly(stage: Stage, account: str) -> Story:
    """A paid year gives month by month; an upgrade counts in part, then in full."""
    one = stage.subscribe(account, stage.price("year", 100, "year", allowance_interval="month"))
    yield
    stage.fake.advance(days=40)
    yield
    stage.change(one, quantity=3)
    yield
    stage.fake.advance(days=40)
    yield
    return 300


def rolled(stage: Stage, account: str) -> Story:
    """What is left rolls over, up to the cap, however many periods it came from."""
    one = stage.subscribe(account, stage.price("rolls", 1_000, rollover_cap=300))
    yield
    for _ in range(2):
        stage.renew(one)
        yield
    return 1_300


SCENARIOS = (
    renewed,
    paid_late,
    never_paid,
    canceled,
    unpaid,
    tried,
    paused,
    up_down_up,
    yearly,
    rolled,
)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_any_order_duplicates_and_crashes_end_alike(
    engine: Engine, redis_client: redis.Redis, fake: Fake, scenario: Scenario, first: int
) -> None:
    stage = stage_of(engine, redis_client, fake)
    play(scenario, range(first, min(first + CHUNK, SEEDS)), stage)
    assert stage.crashes > 0


def test_many_workers_on_the_events_of_many_plans_give_each_once(
    engine: Engine, redis_client: redis.Redis, fake: Fake
) -> None:
    stage = stage_of(engine, redis_client, fake)
    price = stage.price("rolls", 1_000, rollover_cap=300)
    accounts = [f"acme-{number}" for number in range(6)]
    for account in accounts:
        stage.inbox.make_account(account)
        stage.renew(stage.subscribe(account, price))
    stage.inbox.clock.now = fake.state.now() * 1000
    told = [one for one in fake.events() if one["type"] in TOLD]
    random.Random(1).shuffle(told)
    stage.inbox.store(*told, *told)
    jobs = [
        InboxJob(
            engine,
            WorkerMetrics(CollectorRegistry()),
            stripe=StripeApi(fake_stripe.KEY, fake.url),
            now_ms=stage.inbox.clock,
        )
        for _ in range(4)
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(lambda job: job.run_once(), jobs))
    stage.inbox.run()
    assert set(stage.inbox.statuses()) <= {"applied", "ignored"}
    stage.world.sender.run_once()
    stage.world.flush()
    assert [stage.inbox.ledger(account) for account in accounts] == [1_300] * 6
    stage.world.assert_sound()
