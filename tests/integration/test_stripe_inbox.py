"""Stored events become credits: once a payment, in any order, however often, from any worker."""

from __future__ import annotations

import json
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError

from persistence import grants, tables
from persistence.stripe_tables import stripe_events, stripe_payments
from sidecar.billing import inbox_rows
from sidecar.billing.inbox import MAX_ATTEMPTS, InboxJob
from sidecar.domain import Category
from sidecar.metrics import WorkerMetrics
from tests.integration.stripe_events import event, payment_succeeded, session_completed
from tests.integration.stripe_inbox import CREDITS, HOUR_MS, Inbox


@pytest.fixture
def inbox(engine: Engine) -> Inbox:
    return Inbox(engine)


def test_a_paid_top_up_is_one_grant_that_names_its_payment(inbox: Inbox) -> None:
    inbox.make_account()
    inbox.store(payment_succeeded())

    assert inbox.job.run_once() == 1

    assert inbox.ledger() == CREDITS
    (grant,) = inbox.rows(tables.grants)
    assert (grant["id"], grant["reference"], grant["amount"]) == ("pi_1", "pi_1", CREDITS)
    assert grant["category"] == "paid"
    (fact,) = inbox.rows(stripe_payments)
    assert (fact["is_paid"], fact["granted"], fact["paid_minor_units"]) == (True, CREDITS, 1000)
    assert inbox.statuses() == ["applied"]
    assert inbox.job.run_once() == 0


@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_any_events_about_one_payment_is_one_grant(inbox: Inbox, seed: int) -> None:
    inbox.make_account()
    later = "checkout.session.async_payment_succeeded"
    events = [
        payment_succeeded(),
        payment_succeeded(),
        session_completed(),
        session_completed(payment_status="unpaid"),
        session_completed(kind=later),
        payment_succeeded(purpose="something else"),
        event("payment_intent.created", {"id": "pi_1", "object": "payment_intent"}),
        event("charge.succeeded", {"id": "ch_1", "object": "charge", "payment_intent": "pi_1"}),
    ]
    deliveries = events * 2
    dice = random.Random(seed)
    dice.shuffle(deliveries)
    for one in deliveries:
        inbox.store(one)
        if dice.random() < 0.5:
            inbox.job.run_once()
    inbox.job.run_once()
    for one in dice.sample(events, 4):
        inbox.replay(one["id"])
    inbox.job.run_once()

    assert inbox.ledger() == CREDITS
    assert len(inbox.rows(tables.grants)) == 1
    assert sorted(inbox.statuses()) == ["applied"] * 5 + ["ignored"] * 3


def test_many_workers_on_one_inbox_grant_each_payment_once(inbox: Inbox) -> None:
    inbox.make_account()
    payments = [f"pi_{n}" for n in range(20)]
    events = [make(p) for p in payments for make in (payment_succeeded, session_completed)]
    random.Random(1).shuffle(events)
    inbox.store(*events, *events)
    jobs = [
        InboxJob(inbox.engine, WorkerMetrics(CollectorRegistry()), now_ms=inbox.clock)
        for _ in range(6)
    ]

    with ThreadPoolExecutor(len(jobs)) as pool:
        taken = list(pool.map(lambda one: one.run_once(), jobs))
    # Whoever found all rows taken by others went home early: once more for what is left.
    taken.append(jobs[0].run_once())

    assert sum(taken) == len(events)
    assert inbox.ledger() == CREDITS * len(payments)
    assert inbox.statuses() == ["applied"] * len(events)


def test_an_unpaid_session_gives_nothing_until_the_payment_succeeds(inbox: Inbox) -> None:
    inbox.make_account()
    inbox.store(session_completed(payment_status="unpaid"))
    inbox.job.run_once()
    assert (inbox.ledger(), inbox.statuses()) == (0, ["applied"])

    inbox.store(session_completed(kind="checkout.session.async_payment_succeeded"))
    inbox.job.run_once()
    inbox.store(session_completed(payment_status="unpaid"))
    inbox.job.run_once()
    assert inbox.ledger() == CREDITS


def test_a_payment_for_an_unknown_account_waits_for_it_and_never_dies(inbox: Inbox) -> None:
    inbox.store(payment_succeeded(), payment_succeeded("pi_2", account="other"))
    inbox.job.run_once()
    for _ in range(MAX_ATTEMPTS + 2):
        inbox.clock.now += HOUR_MS
        assert inbox.job.run_once() == 0
    assert inbox.statuses() == ["failed", "failed"]
    assert len(inbox.rows(stripe_payments)) == 2
    assert "acme" in inbox.rows(stripe_events)[0]["error"]

    inbox.make_account()
    assert inbox.job.run_once() == 1
    assert inbox.ledger() == CREDITS
    assert inbox.statuses() == ["applied", "failed"]
    errors = {row["object_id"]: row["error"] for row in inbox.rows(stripe_events)}
    assert errors == {"pi_1": None, "pi_2": "there is no account other yet"}


def test_an_event_that_stays_unclear_is_tried_with_back_off_and_then_dead(
    inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.make_account()
    inbox.store(payment_succeeded(credits="ten"))
    delays = []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert inbox.job.run_once() == 1
        assert inbox.job.run_once() == 0
        (row,) = inbox.rows(stripe_events)
        assert row["attempts"] == attempt
        assert "metadata.credits" in row["error"]
        delays.append(row["due_ms"] - inbox.clock.now)
        inbox.clock.now = max(inbox.clock.now, row["due_ms"])

    assert inbox.statuses() == ["dead"]
    assert delays[0] <= 5_000
    assert delays[:-1] == sorted(delays[:-1])
    assert caplog.records[-1].levelno == logging.ERROR
    assert inbox.value("credits_stripe_inbox_events", status="dead") == 1
    assert inbox.value("credits_stripe_events_applied_total", outcome="dead") == 1
    assert inbox.ledger() == 0


def test_an_operator_may_replay_a_dead_event(inbox: Inbox) -> None:
    broken = payment_succeeded(credits="ten")
    inbox.store(broken)
    while inbox.statuses() != ["dead"]:
        inbox.job.run_once()
        inbox.clock.now += HOUR_MS
    inbox.replay(broken["id"])
    assert inbox.statuses() == ["pending"]
    inbox.job.run_once()
    assert inbox.statuses() == ["failed"]


def test_an_applied_event_may_be_replayed_for_ever(inbox: Inbox) -> None:
    inbox.make_account()
    one = payment_succeeded()
    inbox.store(one)
    for _ in range(5):
        inbox.job.run_once()
        inbox.replay(one["id"])
    inbox.job.run_once()
    assert inbox.ledger() == CREDITS
    assert inbox.statuses() == ["applied"]


@pytest.mark.parametrize(
    "second", [{"credits": "20000000"}, {"account": "other"}], ids=["credits", "account"]
)
def test_two_events_that_contradict_each_other_are_not_guessed(
    inbox: Inbox, second: dict[str, str]
) -> None:
    inbox.make_account()
    inbox.make_account("other")
    inbox.store(payment_succeeded(), session_completed(**second))
    inbox.job.run_once()
    assert (inbox.ledger(), inbox.ledger("other")) == (CREDITS, 0)
    assert inbox.statuses() == ["applied", "failed"]


def test_a_payment_beyond_what_an_account_can_hold_fails_and_is_kept(inbox: Inbox) -> None:
    inbox.make_account()
    inbox.store(payment_succeeded("pi_1", credits=str(2**53 - 1)), payment_succeeded("pi_2"))
    inbox.job.run_once()
    assert inbox.ledger() == 2**53 - 1
    assert inbox.statuses() == ["applied", "failed"]
    assert [row["granted"] for row in inbox.rows(stripe_payments)] == [2**53 - 1, 0]


def test_a_grant_that_took_the_payments_id_is_a_failure_and_no_second_grant(inbox: Inbox) -> None:
    inbox.make_account()
    with inbox.engine.begin() as c:
        grants.add_grant(c, grants.GrantRequest("acme", "pi_1", 5, Category.PROMO))
    inbox.store(payment_succeeded())
    inbox.job.run_once()
    assert (inbox.ledger(), inbox.statuses()) == (5, ["failed"])


def test_one_poisoned_event_does_not_stop_those_behind_it(inbox: Inbox) -> None:
    inbox.make_account()
    poison = payment_succeeded("pi_0")
    inbox.store(poison, payment_succeeded())
    with inbox.engine.begin() as c:
        c.execute(
            stripe_events.update()
            .where(stripe_events.c.id == poison["id"])
            .values(payload=json.dumps({"data": 7}))
        )
    assert inbox.job.run_once() == 2
    assert sorted(inbox.statuses()) == ["applied", "failed"]
    assert inbox.ledger() == CREDITS


def test_a_crash_before_the_commit_leaves_the_event_and_the_credits_as_they_were(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.make_account()
    inbox.store(payment_succeeded())

    class Crash(BaseException):
        """The process ends here."""

    def crash(*_: Any, **__: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(inbox_rows, "finish", crash)
        with pytest.raises(Crash):
            inbox.job.run_once()
    assert (inbox.ledger(), inbox.statuses()) == (0, ["pending"])
    assert inbox.rows(stripe_payments) == []

    inbox.job.run_once()
    assert (inbox.ledger(), inbox.statuses()) == (CREDITS, ["applied"])


def test_a_database_that_is_away_costs_no_attempt(inbox: Inbox) -> None:
    nowhere = create_engine("postgresql+psycopg://nobody@127.0.0.1:9/none?connect_timeout=1")
    job = InboxJob(nowhere, WorkerMetrics(CollectorRegistry()), now_ms=inbox.clock)
    with pytest.raises(OperationalError):
        job.run_once()


def test_a_killed_connection_costs_no_attempt(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.make_account()
    inbox.store(payment_succeeded())
    add_grant = grants.add_grant

    def killed(c: Any, request: Any) -> Any:
        add_grant(c, request)
        with inbox.engine.connect() as other:
            pid = c.execute(text("SELECT pg_backend_pid()")).scalar()
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        return c.execute(text("SELECT 1"))

    with monkeypatch.context() as patch:
        patch.setattr(grants, "add_grant", killed)
        with pytest.raises(OperationalError):
            inbox.job.run_once()
    (row,) = inbox.rows(stripe_events)
    assert (row["status"], row["attempts"]) == ("pending", 0)
    inbox.job.run_once()
    assert inbox.ledger() == CREDITS


def test_what_is_not_applied_is_counted_by_status(inbox: Inbox) -> None:
    inbox.make_account()
    inbox.store(
        payment_succeeded(), event("charge.succeeded", {"id": "ch_1"}), payment_succeeded("p", "x")
    )
    inbox.job.run_once()
    counts = {
        status: inbox.value("credits_stripe_inbox_events", status=status)
        for status in ("pending", "failed", "dead")
    }
    assert counts == {"pending": 0, "failed": 1, "dead": 0}
    newest = inbox.value("credits_stripe_newest_event_timestamp_seconds")
    assert newest == 1_800_000_000


def test_an_event_id_is_stored_once_for_ever(inbox: Inbox) -> None:
    one = payment_succeeded()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: inbox.store(one), range(16)))
    assert len(inbox.statuses()) == 1
