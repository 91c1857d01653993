"""Ending grants and carrying them over: what the ledger says, what Redis does, and a lost Redis."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis
from sqlalchemy import Engine

from persistence.errors import AccountUnknown
from persistence.grants import add_adjustment
from persistence.rolling import ROLL_GRANTS, end_grants, roll_grants
from sidecar.domain import Category
from tests.integration.ledger_world import World
from tests.integration.test_recovery_reopening import available, lose, reopen
from tests.lua.support import Account

HOUR_MS = 3_600_000
CAP = 60


def in_hours(hours: int) -> int:
    return int(time.time() * 1000) + hours * HOUR_MS


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


@pytest.fixture
def account(world: World) -> Account:
    """An account with a payment of 1,000 and the allowances a1 of 100 and a2 of 50."""
    made = world.funded()
    for id, amount in (("a1", 100), ("a2", 50)):
        category = Category.ALLOWANCE
        world.grant("acme", amount, id, category=category, expires_at_ms=in_hours(1))
    world.sender.run_once()
    return made


def roll(world: World, keep: int = CAP, *ids: str, group: str = "next", hours: int = 9) -> None:
    """Carry a1 and a2, or others, over."""
    at_ms = in_hours(hours)
    names = ids or ("a1", "a2")
    world.run(lambda c: roll_grants(c, "acme", names, group=group, keep=keep, expires_at_ms=at_ms))


def end(world: World, *ids: str) -> None:
    """End grants."""
    world.run(lambda c: end_grants(c, "acme", ids))


def row(world: World, id: str) -> tuple[bool, str | None, int | None]:
    """Return whether a grant has ended by the ledger, its group, and what that may keep."""
    (found,) = world.sql(
        "SELECT expires_at_ms <= extract(epoch FROM clock_timestamp()) * 1000, rolled_group,"
        " rolled_keep FROM grants WHERE account = 'acme' AND id = :id",
        id=id,
    )
    ended, group, keep = found
    return ended, group, keep


def refills(world: World) -> int:
    (count,) = world.sql("SELECT count(*) FROM refills WHERE account = 'acme'")
    return int(count)


def test_what_is_carried_over_is_at_most_what_may_be_kept(world: World, account: Account) -> None:
    roll(world)
    world.sender.run_once()
    world.assert_sound()
    assert available(account) == 1_000 + CAP
    assert (world.counters("a1"), world.counters("a2")) == ((0, 40, 0), (0, 50, 0))
    assert row(world, "a1") == row(world, "a2") == (False, "next", CAP)
    orders = account.orders()
    (ends_ms,) = world.sql("SELECT DISTINCT expires_at_ms FROM grants WHERE rolled_keep > 0")
    assert sorted(int(order[3:18]) for order in orders.values())[:2] == [ends_ms, ends_ms]


def test_grants_end_at_once(world: World, account: Account) -> None:
    account.debit("d", 30)
    end(world, "a1")
    world.sender.run_once()
    world.assert_sound()
    assert available(account) == 1_050
    assert world.counters("a1") == (30, 70, 0)
    assert row(world, "a1") == (True, "ended", 0)
    assert row(world, "a2") == (False, None, None)


def test_keeping_nothing_ends_grants_at_once_whatever_the_expiry(
    world: World, account: Account
) -> None:
    roll(world, 0)
    world.sender.run_once()
    world.assert_sound()
    assert available(account) == 1_000
    assert row(world, "a1") == row(world, "a2") == (True, "next", 0)


def test_a_grant_that_ended_before_keeps_the_time_of_its_end(world: World) -> None:
    world.funded()
    world.grant("acme", 10, "old", expires_at_ms=1_000)
    end(world, "old")
    assert world.sql("SELECT expires_at_ms FROM grants WHERE id = 'old'") == [1_000]
    world.sender.run_once()
    world.assert_sound()


def test_grants_that_do_not_exist_or_have_nothing_left_are_passed_over(
    world: World, account: Account
) -> None:
    account.debit("d", 100)
    world.flush()
    before = refills(world)
    roll(world, CAP, "a1", "never")
    end(world, "a1", "never")
    end(world)
    assert refills(world) == before
    assert row(world, "a1") == (False, None, None)
    world.assert_sound()


def test_an_account_that_does_not_exist_is_told(world: World) -> None:
    world.opener.open_shards()
    with pytest.raises(AccountUnknown):
        end(world, "a1")


def test_more_grants_than_a_refill_may_roll_are_refused(
    world: World, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.rolling.ROLL_GRANTS", 1)
    with pytest.raises(AssertionError):
        roll(world)
    assert ROLL_GRANTS == 1_000
    assert row(world, "a1") == (False, None, None)


def test_what_a_hold_gives_back_to_what_was_carried_over_stays(
    world: World, account: Account
) -> None:
    account.hold("h", 100)
    roll(world, 20)
    world.sender.run_once()
    account.release("h")
    world.assert_sound()
    assert available(account) == 1_120
    assert world.counters("a2") == (0, 30, 0)


def test_what_a_hold_gives_back_to_what_was_ended_ends_too(world: World, account: Account) -> None:
    account.hold("h", 120)
    end(world, "a1", "a2")
    world.sender.run_once()
    account.settle("h", 10)
    world.assert_sound()
    assert available(account) == 1_000
    assert (world.counters("a1"), world.counters("a2")) == ((10, 90, 0), (0, 50, 0))


def test_carrying_over_twice_keeps_the_lesser(world: World, account: Account) -> None:
    roll(world, 120)
    world.grant("acme", 30, "a3", category=Category.ALLOWANCE, expires_at_ms=in_hours(9))
    roll(world, 40, "a1", "a2", "a3", group="after that", hours=20)
    world.sender.run_once()
    world.assert_sound()
    assert available(account) == 1_040


# A lost Redis -------------------------------------------------------------------------------


def sent(world: World) -> None:
    """Redis carries it out, and what it tells of it is lost."""
    world.sender.run_once()


def sent_and_flushed(world: World) -> None:
    """Redis carries it out, and the ledger hears of it."""
    world.sender.run_once()
    world.flush()


def pending(_: World) -> None:
    """Redis never gets it."""


FATES = pytest.mark.parametrize("fate", [pending, sent, sent_and_flushed])


@FATES
def test_after_a_loss_no_more_is_there_than_may_be_kept(
    world: World, account: Account, fate: Callable[[World], None]
) -> None:
    roll(world)
    fate(world)
    lose(world)
    assert available(reopen(world)) == 1_000 + CAP
    lose(world)
    assert available(reopen(world)) == 1_000 + CAP
    assert world.counters("a1")[1] + world.counters("a2")[1] == 150 - CAP


@FATES
def test_after_a_loss_what_was_ended_is_not_there(
    world: World, account: Account, fate: Callable[[World], None]
) -> None:
    end(world, "a1", "a2")
    fate(world)
    lose(world)
    assert available(reopen(world)) == 1_000
    assert (world.counters("a1"), world.counters("a2")) == ((0, 100, 0), (0, 50, 0))


@FATES
def test_each_group_keeps_its_own_after_a_loss(
    world: World, account: Account, fate: Callable[[World], None]
) -> None:
    roll(world, 10, "a1", group="one")
    roll(world, 20, "a2", group="two")
    fate(world)
    lose(world)
    assert available(reopen(world)) == 1_030
    assert (world.counters("a1"), world.counters("a2")) == ((0, 90, 0), (0, 30, 0))


def test_a_debt_is_paid_by_what_burns_first_and_before_anything_ends(
    world: World, account: Account
) -> None:
    # Redis never gets either. Without the loss it would have been the same.
    world.run(lambda c: add_adjustment(c, "acme", "less", -70, "a test"))
    roll(world)
    lose(world)
    assert available(reopen(world)) == 1_000 + CAP
    assert world.counters("g1") == (0, 0, 0)
    assert world.counters("a1")[0] == 70


def test_what_was_carried_over_and_its_time_came_is_gone_after_a_loss(
    world: World, account: Account
) -> None:
    at_ms = int(time.time() * 1000) + 300
    world.run(lambda c: roll_grants(c, "acme", ["a1"], group="next", keep=CAP, expires_at_ms=at_ms))
    world.sender.run_once()
    lose(world)
    world.sql("SELECT pg_sleep(0.4)")
    assert available(reopen(world)) == 1_050
    assert world.counters("a1") == (0, 100, 0)


def test_an_account_of_which_nothing_is_left_reopens(world: World, account: Account) -> None:
    roll(world)
    world.sender.run_once()
    account.debit("d", 1_060)
    world.flush()
    lose(world)
    assert available(reopen(world)) == 0
