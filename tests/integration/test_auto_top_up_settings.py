"""Saving the settings of auto top-up: checked, seen, and the end of a pause."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from persistence.errors import AccountUnknown
from sidecar.billing import auto_top_up_hooks as hooks
from sidecar.billing.auto_top_up_settings import (
    get_auto_top_up,
    list_attempts,
    put_auto_top_up,
)
from sidecar.errors import Refusal
from tests.integration.fake_stripe import Fake, running
from tests.integration.top_up_world import AMOUNT, MINUTE_MS, THRESHOLD, TopUpWorld


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    with running() as started:
        yield started


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis, fake: Fake) -> TopUpWorld:
    return TopUpWorld(engine, redis_client, fake)


def _put(world: TopUpWorld, **changes: Any) -> dict[str, Any]:
    with world.engine.begin() as c:
        return put_auto_top_up(c, "acme", changes, world.clock())


def test_settings_are_saved_seen_and_count_at_once(world: TopUpWorld) -> None:
    world.begin(is_enabled=False)
    saved = _put(world, is_enabled=True, threshold=THRESHOLD, amount=2 * AMOUNT)
    assert (saved["is_enabled"], saved["amount"], saved["monthly_cap"]) == (True, 2 * AMOUNT, None)
    with world.engine.connect() as c:
        assert get_auto_top_up(c, "acme") == saved
        assert get_auto_top_up(c, "other") is None
    world.run()
    assert world.charged() == [2_000]
    with world.engine.connect() as c:
        (attempt,) = list_attempts(c, "acme")
    assert (attempt["status"], attempt["tries"]) == ("charged", 1)


def test_the_first_time_it_is_on_unless_it_says_otherwise(world: TopUpWorld) -> None:
    world.world.opener.open_shards()
    world.world.put("acme")
    assert _put(world, threshold=5, amount=7)["is_enabled"] is True
    marks = "SELECT top_up_threshold FROM accounts WHERE account = 'acme'"
    assert world.world.sql(marks) == [5]
    assert _put(world, is_enabled=False)["threshold"] == 5
    assert world.world.sql(marks) == [None]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({}, "threshold"),
        ({"threshold": 1}, "amount"),
        ({"threshold": 0, "amount": 1}, "threshold"),
        ({"threshold": True, "amount": 1}, "threshold"),
        ({"threshold": 1, "amount": 2**53}, "amount"),
        ({"threshold": 1, "amount": 10, "monthly_cap": 9}, "monthly_cap"),
        ({"threshold": 1, "amount": 10, "monthly_cap": "10"}, "monthly_cap"),
        ({"threshold": 1, "amount": 10, "is_enabled": None}, "is_enabled"),
        ({"threshold": 1, "amount": 10, "paused_reason": None}, "paused_reason"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name_and_nothing_is_saved(
    world: TopUpWorld, changes: dict[str, Any], param: str
) -> None:
    world.world.opener.open_shards()
    world.world.put("acme")
    with pytest.raises(Refusal) as refused:
        _put(world, **changes)
    assert refused.value.param == param
    with world.engine.connect() as c:
        assert get_auto_top_up(c, "acme") is None


def test_an_amount_whose_price_is_below_the_minimum_is_refused(world: TopUpWorld) -> None:
    world.begin()
    with pytest.raises(Refusal) as refused:
        _put(world, amount=490_000)
    assert refused.value.param == "amount"
    assert _put(world, amount=491_000)["amount"] == 491_000  # 49.1 cents are 50


def test_an_account_that_does_not_exist_has_no_settings(world: TopUpWorld) -> None:
    with pytest.raises(AccountUnknown):
        _put(world, threshold=1, amount=1)


def test_saved_settings_end_a_pause_and_forget_the_declines(world: TopUpWorld) -> None:
    world.begin(paused_reason="too_many_declines", declines=4, next_ms=10**15, due_ms=None)
    saved = _put(world)
    assert (saved["paused_reason"], saved["declines"], saved["next_ms"]) == (None, 0, 0)
    assert world.alerts() == [("auto_top_up.resumed", "saved_settings")]
    world.run()
    assert world.charged() == [1_000]


def test_saved_settings_do_not_shorten_the_minute_between_two_attempts(world: TopUpWorld) -> None:
    world.begin()
    world.run()
    world.deliver()
    world.use(world.available())
    for _ in range(5):
        _put(world)
        world.run()
    assert world.charged() == [1_000]
    world.later(MINUTE_MS)
    assert world.charged() == [1_000, 1_000]


def test_saved_settings_do_not_end_the_doubt_of_an_open_dispute(world: TopUpWorld) -> None:
    world.begin()
    world.run()
    world.deliver()
    payment = world.payments("succeeded")[-1]["id"]
    world.fake.control("disputes", payment_intent=payment, kind="inquiry")
    world.deliver()
    world.use(world.available())
    world.pass_time(MINUTE_MS)
    _put(world)
    world.run()
    assert world.setting()["paused_reason"] == "dispute"
    with world.engine.begin() as c:
        hooks.on_new_card(c, world.customer, world.clock())
    assert world.setting()["paused_reason"] == "dispute"
