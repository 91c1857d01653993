"""What every answer carries at its end for the journal: the allowance, and the usage event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lua.support import Account, begin_stream


@pytest.fixture
def funded(account: Account) -> Account:
    """An account with 100 credits and an allowance of 7."""
    account.open(allowance=7)
    account.grant(1, 100)
    return account


def last_entry(account: Account) -> list[bytes]:
    """Return stream id and event of the newest entry."""
    ((stream_id, entry),) = account.redis.xrevrange(account.keys[8], count=1)
    return [stream_id, entry[b"e"]]


def test_a_charge_carries_its_event_as_it_is_in_the_stream(funded: Account) -> None:
    funded.debit("d", 10)
    assert funded.trail == [7, *last_entry(funded)]
    funded.hold("h", 10)
    funded.settle("h", 5)
    assert funded.trail == [7, *last_entry(funded)]
    funded.refund("r", "d")
    assert funded.trail == [7, *last_entry(funded)]


@pytest.mark.parametrize("verb", ["hold", "release", "balance", "extend", "expire"])
def test_a_call_without_usage_carries_only_the_allowance(funded: Account, verb: str) -> None:
    funded.hold("h", 10)
    args = {"hold": ("i", 1), "release": ("h",), "extend": ("h", 20)}.get(verb, ())
    getattr(funded, verb)(*args)
    assert funded.trail == [7]


def test_a_replay_carries_where_its_event_is(funded: Account) -> None:
    funded.hold("h", 10)
    charges: tuple[Callable[[], list[Any]], ...] = (
        lambda: funded.debit("d", 10),
        lambda: funded.settle("h", 5, final=0),
        lambda: funded.settle("h", 6),
        lambda: funded.refund("r", "d"),
    )
    for charge in charges:
        charge()
        stream_id = funded.trail[1]
        funded.debit("another", 1)
        charge()
        assert funded.trail == [7, stream_id]


def test_what_expires_in_passing_is_not_the_event_of_the_charge(funded: Account) -> None:
    funded.grant(2, 50, expires_at_ms=4_000_000_000_000)
    funded.due("g:2", 1)
    funded.debit("d", 10)
    assert [event.operation for event in funded.events()] == ["expire", "debit"]
    assert funded.trail[1:] == last_entry(funded)


def test_a_refusal_carries_the_allowance(funded: Account) -> None:
    assert funded.debit("d", 101)[0] == "insufficient"
    assert funded.trail == [7]


@pytest.mark.parametrize("status", ["suspended", "closed"])
def test_an_account_that_may_not_spend_has_no_allowance(funded: Account, status: str) -> None:
    funded.status(status, allowance=7)
    assert funded.balance()[1] == status
    assert funded.trail == [0]


def test_the_allowance_changes_with_the_status(funded: Account) -> None:
    funded.status("active", allowance=9)
    funded.balance()
    assert funded.trail == [9]


def test_an_account_opened_without_an_allowance_has_none(account: Account) -> None:
    begin_stream(account.redis, account.keys[8])
    account.call("open", 1, 1, "active", 0, "")
    account.balance()
    assert account.trail == [0]
