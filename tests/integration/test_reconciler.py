"""The reconciler finds what no webhook brought, says how late that is, and gives nothing twice."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from persistence.stripe_tables import stripe_events
from persistence.top_up_tables import reconciler_runs
from sidecar.billing.errors import StripeAway
from sidecar.billing.reconciler import Reconciler
from sidecar.billing.reconciling import DAY_MS, HOUR_MS, ReconcilerJob, RetentionJob
from sidecar.billing.stripe_api import StripeApi
from sidecar.metrics import MoneyMetrics
from tests.integration import fake_stripe
from tests.integration.fake_stripe import Fake
from tests.integration.stripe_events import payment_succeeded
from tests.integration.stripe_inbox import CREDITS, Inbox

HOUR = 3_600
WEEK = 7 * 24 * HOUR


class Shop:
    """A fake Stripe of the test's own, an inbox that nothing is delivered to, and a reconciler."""

    def __init__(self, engine: Engine, fake: Fake) -> None:
        self.fake = fake
        self.api = StripeApi(fake_stripe.KEY, fake.url)
        self.inbox = Inbox(engine, self.api)
        self.inbox.make_account()
        self.registry = CollectorRegistry()
        self.reconciler = Reconciler(engine, self.api, self.now_ms, livemode=False)
        metrics = MoneyMetrics(self.registry)
        self.job = ReconcilerJob(engine, self.reconciler, metrics, now_ms=self.now_ms)

    def now_ms(self) -> int:
        """Return the fake's time."""
        return self.fake.state.now() * 1000

    def pay(self) -> str:
        """Buy 10 credits for 10 dollars."""
        metadata = {"purpose": "topup", "account": "acme", "credits": str(CREDITS)}
        made = self.fake.client.v1.payment_intents.create(
            {
                "amount": 1000,
                "currency": "usd",
                "confirm": True,
                "payment_method": "pm_card_visa",
                "metadata": metadata,
            }
        )
        return made.id

    def live(self, seconds: int) -> int:
        """Let business go on for a time, and no webhook arrive; return what it is worth."""
        kept = 0
        for _ in range(4):
            self.pay()
            half = self.pay()
            self.fake.client.v1.refunds.create({"payment_intent": half, "amount": 500})
            disputed = self.pay()
            self.fake.control("disputes", payment_intent=disputed)
            kept += CREDITS + CREDITS // 2
            self.fake.advance(seconds // 4)
        return kept

    def reconcile(self) -> None:
        """Run the passes that are due, and apply what they found."""
        self.job.run_once()
        self.inbox.clock.now = max(self.inbox.clock.now, self.now_ms())
        self.inbox.run()

    def value(self, name: str, which: str) -> float | None:
        """Return a metric of a pass."""
        return self.registry.get_sample_value(name, {"pass": which})


@pytest.fixture
def shop(engine: Engine) -> Iterator[Shop]:
    with fake_stripe.running() as fake:
        made = Shop(engine, fake)
        yield made
        made.job.close()


@pytest.mark.parametrize("seconds", [HOUR, WEEK], ids=["an hour", "a week"])
def test_every_webhook_lost_for_a_time_is_made_good(shop: Shop, seconds: int) -> None:
    shop.reconcile()  # the first look, when nothing has happened yet
    kept = shop.live(seconds)
    assert shop.inbox.ledger() == 0

    shop.reconcile()

    assert shop.inbox.ledger() == kept
    assert shop.value("credits_reconciler_late_total", "events") != 0
    sources = {row["source"] for row in shop.inbox.rows(stripe_events)}
    assert sources == {"reconciler"}


def test_a_week_that_the_events_do_not_show_is_found_in_the_objects(shop: Shop) -> None:
    kept = shop.live(WEEK)
    shop.fake.state.events.clear()
    shop.reconciler.objects(shop.now_ms() - 8 * DAY_MS)
    shop.inbox.run()
    assert shop.inbox.ledger() == kept


def test_what_was_answered_200_and_lost_all_the_same_is_found_in_the_objects(shop: Shop) -> None:
    payment = shop.pay()
    shop.inbox.store(*shop.fake.events())
    with shop.inbox.engine.begin() as c:
        c.execute(stripe_events.update().values(status="ignored"))
    shop.reconcile()
    assert shop.inbox.ledger() == CREDITS
    assert shop.value("credits_reconciler_found_total", "events") == 0
    assert shop.value("credits_reconciler_found_total", "objects") == 1
    found = [row for row in shop.inbox.rows(stripe_events) if row["source"] == "reconciler"]
    assert [(row["type"], row["object_id"]) for row in found] == [
        ("payment_intent.succeeded", payment)
    ]


def test_what_was_delivered_is_not_missing(shop: Shop) -> None:
    shop.live(HOUR)
    shop.inbox.store(*shop.fake.events())
    shop.inbox.run()
    before = shop.inbox.ledger()
    for name in ("events", "objects", "subscriptions"):
        report = getattr(shop.reconciler, name)(*([0] if name != "subscriptions" else []))
        assert report.found == 0, report
    assert shop.inbox.ledger() == before


def test_each_pass_has_its_pace_and_looks_back_over_the_last_one(shop: Shop) -> None:
    assert shop.job.run_once() == 3
    assert shop.job.run_once() == 0
    shop.fake.advance(5 * 60)
    assert shop.job.run_once() == 1
    shop.fake.advance(HOUR)
    assert shop.job.run_once() == 2
    runs = {row["name"]: row["reached_ms"] for row in shop.inbox.rows(reconciler_runs)}
    assert runs["events"] == runs["objects"] == shop.now_ms()
    # An event that came an hour before the last look, and was not listed yet then.
    shop.pay()
    shop.fake.advance(HOUR - 60)
    assert shop.job.run_once() == 1
    assert shop.value("credits_reconciler_found_total", "events") != 0


def test_one_worker_at_a_time_reconciles(shop: Shop) -> None:
    other = ReconcilerJob(
        shop.inbox.engine, shop.reconciler, MoneyMetrics(CollectorRegistry()), now_ms=shop.now_ms
    )
    assert shop.job.run_once() == 3
    shop.fake.advance(DAY_MS // 1000)
    assert other.run_once() == 0
    shop.job.close()
    assert other.run_once() == 3
    other.close()


def test_a_pass_that_fails_is_done_again_whole(shop: Shop) -> None:
    shop.job.run_once()
    shop.pay()
    shop.fake.advance(HOUR)
    faults = f"{shop.fake.url}/_fake/faults"
    shop.fake.http.post(faults, json={"kind": "error_before", "path": "/v1/events", "count": 1})
    with pytest.raises(Exception, match="Stripe gave no answer"):
        shop.job.run_once()
    shop.fake.advance(15)
    shop.reconcile()
    assert shop.inbox.ledger() == CREDITS


def test_a_pass_that_stripe_refuses_waits_ever_longer_and_holds_up_no_other(shop: Shop) -> None:
    faults = f"{shop.fake.url}/_fake/faults"
    fault = {"kind": "error_before", "path": "/v1/events", "count": 100}
    shop.fake.http.post(faults, json=fault)
    with pytest.raises(StripeAway):
        shop.job.run_once()
    assert {row["name"] for row in shop.inbox.rows(reconciler_runs)} == {"objects", "subscriptions"}
    assert shop.job.run_once() == 0
    for seconds in (15, 30, 60):
        shop.fake.advance(seconds - 1)
        assert shop.job.run_once() == 0
        shop.fake.advance(1)
        with pytest.raises(StripeAway):
            shop.job.run_once()


def test_every_worker_shows_when_a_pass_last_succeeded(shop: Shop) -> None:
    registry = CollectorRegistry()
    metrics = MoneyMetrics(registry)
    other = ReconcilerJob(shop.inbox.engine, shop.reconciler, metrics, now_ms=shop.now_ms)
    name, labels = "credits_reconciler_succeeded_timestamp_seconds", {"pass": "events"}
    key = StripeApi("sk_test_wrong", "http://127.0.0.1:9", timeout_s=1)
    deaf = Reconciler(shop.inbox.engine, key, shop.now_ms, livemode=False)
    failing = ReconcilerJob(shop.inbox.engine, deaf, metrics, now_ms=shop.now_ms)
    with pytest.raises(StripeAway):
        failing.run_once()
    failing.close()
    assert registry.get_sample_value(name, labels) == 0
    shop.reconcile()
    assert other.run_once() == 0
    assert registry.get_sample_value(name, labels) == shop.now_ms() / 1000


def test_the_first_look_of_a_new_ledger_is_no_alarm(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.pay()
    shop.fake.advance(HOUR)
    with caplog.at_level(logging.INFO):
        shop.reconcile()
    assert shop.inbox.ledger() == CREDITS
    assert shop.value("credits_reconciler_late_total", "events") == 0
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


def test_an_event_of_another_version_is_read_from_its_object(shop: Shop) -> None:
    shop.pay()
    for one in shop.fake.state.events:
        one["api_version"] = "2019-12-03"
        one["data"]["object"] = {"id": one["data"]["object"]["id"], "object": "payment_intent"}
    shop.reconcile()
    assert shop.inbox.ledger() == CREDITS


def test_payloads_are_blanked_when_they_are_old_and_applied(shop: Shop) -> None:
    shop.inbox.apply(payment_succeeded("pi_1"))
    shop.inbox.store(payment_succeeded("pi_2", credits="none"))
    shop.inbox.run()
    clock = shop.inbox.clock
    job = RetentionJob(shop.inbox.engine, days=90, now_ms=clock)
    clock.now += 90 * DAY_MS
    assert job.run_once() == 0
    clock.now += HOUR_MS
    assert job.run_once() == 1
    kept = {row["object_id"]: row for row in shop.inbox.rows(stripe_events)}
    assert kept["pi_1"]["payload"] is None
    assert kept["pi_2"]["payload"] is not None
    shop.inbox.replay(kept["pi_1"]["id"])
    shop.inbox.run()
    kept = {row["object_id"]: row for row in shop.inbox.rows(stripe_events)}
    assert "not kept" in kept["pi_1"]["error"]
    assert shop.inbox.ledger() == CREDITS


def reconcile(shop: Shop, *arguments: str, redis_url: str) -> tuple[int, Any]:
    """Run the command and return its exit status and its JSON."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "CREDITS_REDIS_URL": redis_url,
        "CREDITS_POSTGRES_URL": shop.inbox.engine.url.set(drivername="postgresql").render_as_string(
            hide_password=False
        ),
        "CREDITS_STRIPE_SECRET_KEY": fake_stripe.KEY,
        "CREDITS_STRIPE_API_BASE": shop.fake.url,
    }
    command = [sys.executable, "-m", "sidecar", "reconcile", "--json", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_command_says_what_is_missing_and_stores_it_unless_it_is_dry(
    shop: Shop, redis_url: str
) -> None:
    shop.pay()
    status, report = reconcile(shop, "--dry-run", redis_url=redis_url)
    assert (status, shop.inbox.statuses()) == (1, [])
    assert {one["pass"]: one["found"] for one in report["passes"]}["events"] >= 1

    status, _ = reconcile(shop, "--since", "2d", redis_url=redis_url)
    assert status == 1
    shop.inbox.clock.now = shop.now_ms() + HOUR_MS
    shop.inbox.run()
    assert shop.inbox.ledger() == CREDITS

    status, report = reconcile(shop, redis_url=redis_url)
    assert (status, [one["found"] for one in report["passes"]]) == (0, [0, 0, 0])
