"""One charge a gap: however many workers see it at once, and wherever one of them dies."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import redis
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from persistence.database import in_transaction
from persistence.watching import watch
from sidecar.billing import auto_top_up_hooks as hooks
from sidecar.billing import auto_top_up_rows as rows
from sidecar.billing import auto_top_up_send, auto_top_up_start
from sidecar.billing.watch import Watch
from tests.integration.fake_stripe import Fake, running
from tests.integration.stripe_inbox import HOUR_MS
from tests.integration.top_up_world import MINUTE_MS, TopUpWorld

T = TypeVar("T")

PAYMENTS = {"method": "POST", "path": "/v1/payment_intents"}


class Crash(BaseException):
    """What a process meets that is killed."""


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as started:
        yield started


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis, fake: Fake) -> TopUpWorld:
    return TopUpWorld(engine, redis_client, fake)


def _cross(world: TopUpWorld) -> None:
    """Do what a worker does when a call took the account below its threshold."""
    with world.engine.begin() as c:
        watch(c, ["acme"], world.clock())
    Watch(world.engine, world.standings, now_ms=world.clock).run_once()
    world.new_job().run_once()


@pytest.mark.parametrize("fault", [None, "timeout_after", "error_after", "rate_limit"])
def test_fifty_crossings_at_once_are_one_charge(world: TopUpWorld, fault: str | None) -> None:
    world.begin(due_ms=None)
    if fault is not None:
        world.fake.fault(fault, **PAYMENTS, seconds=1.2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: _cross(world), range(50)))
    world.later(5_000)
    world.later(30_000)
    assert (world.charged(), len(world.attempts())) == ([1_000], 1)
    world.assert_sound()
    assert world.statuses() == ["succeeded"]


def test_workers_that_send_while_events_arrive_charge_once_a_gap(world: TopUpWorld) -> None:
    world.begin(due_ms=None)
    for gap in range(1, 4):

        def work(number: int) -> None:
            if number % 2:
                _cross(world)
            else:
                world.inbox.store(*world.fake.events())
                world.inbox_job().run_once()

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(24)))
        world.deliver()
        assert world.charged() == [1_000] * gap
        world.use(world.available())
        world.pass_time(MINUTE_MS)
    assert world.statuses() == ["succeeded"] * 3
    world.assert_sound()


def test_the_index_refuses_a_second_attempt_in_flight(world: TopUpWorld) -> None:
    world.begin()
    world.run()
    with world.engine.begin() as c:
        c.execute(
            text(
                "INSERT INTO orders SELECT 'order_2', account, purpose, offer, credits, price,"
                " currency, NULL, created_ms FROM orders"
            )
        )
        with pytest.raises(IntegrityError):
            rows.add_attempt(c, "acme", "order_2", "{}", world.clock())
        c.rollback()


def test_if_the_index_refuses_it_nothing_is_written_and_nothing_is_charged(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.begin()
    world.run()
    monkeypatch.setattr(rows, "has_in_flight", lambda *_: False)
    monkeypatch.setattr(rows, "last_begun_ms", lambda *_: 0)
    world.set(due_ms=world.clock())
    world.run()
    with world.engine.connect() as c:
        assert c.scalar(text("SELECT count(*) FROM orders")) == 1
    assert (world.charged(), len(world.attempts())) == ([1_000], 1)


def _dying(at: int, when: str) -> Callable[[Engine, Callable[[Connection], T]], T]:
    """Return `in_transaction` that dies in the n-th one: before its commit, or after it."""
    count = 0

    def run(engine: Engine, work: Callable[[Connection], T]) -> T:
        nonlocal count
        count += 1
        is_last = count == at

        def dying(c: Connection) -> T:
            done = work(c)
            if is_last and when == "before":
                raise Crash
            return done

        done = in_transaction(engine, dying)
        if is_last:
            raise Crash
        return done

    return run


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_worker_that_dies_around_a_commit_leaves_one_charge_for_another_one_to_finish(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch, at: int, when: str
) -> None:
    world.begin()
    with monkeypatch.context() as patch:
        dying = _dying(at, when)
        for module in (auto_top_up_start, auto_top_up_send):
            patch.setattr(module, "in_transaction", dying)
        with pytest.raises(Crash):
            world.run()
    world.job = world.new_job()
    world.later(30_000)
    world.later(30_000)
    assert (world.charged(), world.statuses()) == ([1_000], ["charged"])
    world.assert_sound()
    world.later(HOUR_MS)
    assert (world.charged(), world.statuses()) == ([1_000], ["succeeded"])


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_worker_that_dies_in_the_middle_of_the_call_leaves_an_unknown_outcome(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch, is_sent: bool
) -> None:
    world.begin()
    real = world.api.post

    def post(path: str, parameters: Any, *, key: str) -> dict[str, Any]:
        if is_sent:
            real(path, parameters, key=key)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(world.api, "post", post)
        with pytest.raises(Crash):
            world.run()
    (attempt,) = world.attempts()
    assert (attempt["status"], attempt["tries"]) == ("unknown", 1)
    assert attempt["first_try_ms"] == world.clock()
    world.job = world.new_job()
    world.later(30_000)
    assert (world.charged(), world.statuses()) == ([1_000], ["charged"])
    world.assert_sound()


def test_an_answer_that_comes_after_another_worker_has_sent_again_changes_nothing(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker stands still after Stripe refused it; meanwhile another one charged the card."""
    world.begin()
    world.job._starter.run_once()
    real, calls = world.api.post, []

    def post(path: str, parameters: Any, *, key: str) -> dict[str, Any]:
        calls.append(key)
        if len(calls) == 1:
            world.pass_time(30_000)
            world.new_job().run_once()
            return real(path, {}, key="another")  # refused: 400
        return real(path, parameters, key=key)

    monkeypatch.setattr(world.api, "post", post)
    world.run()
    assert (world.charged(), world.statuses()) == ([1_000], ["charged"])
    assert world.setting()["failures"] == 0


def test_a_late_refusal_does_not_decide_what_another_worker_is_still_waiting_for(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.begin()
    world.job._starter.run_once()
    real, calls = world.api.post, []

    def post(path: str, parameters: Any, *, key: str) -> dict[str, Any]:
        calls.append(key)
        if len(calls) == 1:
            world.pass_time(30_000)
            world.fake.fault("drop", **PAYMENTS)
            world.new_job().run_once()
            return real(path, {}, key="another")  # refused: 400
        return real(path, parameters, key=key)

    monkeypatch.setattr(world.api, "post", post)
    world.run()
    assert (world.charged(), world.statuses()) == ([1_000], ["unknown"])
    world.later(30_000)
    assert (world.charged(), world.statuses()) == ([1_000], ["charged"])


@pytest.mark.parametrize("seed", range(8))
def test_in_any_history_every_charge_is_granted_and_no_gap_is_charged_twice(
    world: TopUpWorld, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    world.begin()
    faults = ("error_before", "error_after", "drop", "conflict", "rate_limit", "decline")

    def crash() -> None:
        with monkeypatch.context() as patch:
            dying = _dying(dice.randint(1, 5), dice.choice(["before", "after"]))
            for module in (auto_top_up_start, auto_top_up_send):
                patch.setattr(module, "in_transaction", dying)
            try:
                world.run()
            except Crash:
                world.job = world.new_job()

    def card() -> None:
        with world.engine.begin() as c:
            hooks.on_new_card(c, world.customer, world.clock())

    actions: list[Callable[[], object]] = [
        lambda: world.later(dice.choice([1_000, 5_000, 30_000, MINUTE_MS, HOUR_MS])),
        lambda: world.later(dice.choice([10 * MINUTE_MS, 6 * HOUR_MS])),
        lambda: world.fake.fault(dice.choice(faults), **PAYMENTS, count=dice.randint(1, 3)),
        lambda: world.use(dice.randint(0, max(world.available(), 0))),
        world.deliver,
        world.hint,
        world.run,
        crash,
        card,
    ]
    for _ in range(60):
        dice.choice(actions)()
    world.fake.control("faults/clear")
    for _ in range(3):
        world.later(24 * HOUR_MS)
        world.deliver()

    by_order = Counter(one["metadata"]["order_id"] for one in world.payments("succeeded"))
    assert set(by_order.values()) <= {1}
    succeeded = [one for one in world.attempts() if one["status"] == "succeeded"]
    assert {one["order_id"] for one in succeeded} == set(by_order)
    assert not {"pending", "unknown", "charged"} & set(world.statuses())
    # No attempt was begun while another one might have taken money.
    paid = {one["metadata"]["order_id"]: one["created"] * 1_000 for one in world.payments()}
    began = [(one["created_ms"], paid.get(one["order_id"], 0)) for one in world.attempts()]
    for (_, paid_ms), (next_ms, _) in itertools.pairwise(began):
        assert paid_ms <= next_ms
    world.assert_sound()
