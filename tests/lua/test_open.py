"""open, by its header:

1. An older epoch than the account's is fenced, one whose stream is gone too, another generation
   stale, and an open account is left as it is.
2. What is left of an older epoch, or without its account, goes.
3. Otherwise the account is there, with nothing available, refill 1, its status and overdraft.
"""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.consistent import check_consistent
from tests.lua.support import Account, begin_stream
from tests.lua.table import After, Row, do, funded

ROWS = [
    Row("an older epoch is fenced", do.open(), ["fenced"], before=[*funded(), do.use(epoch=0)]),
    Row("an older epoch is fenced whatever the generation", do.open(gen=2), ["fenced"],
        before=[*funded(), do.use(epoch=0)]),
    Row("another generation is stale", do.open(gen=2), ["stale"], before=funded()),
    Row("an open account is replayed and left as it is", do.open(status="closed", overdraft=9),
        ["replayed", 2], before=funded()),
    Row("a new account has nothing available", do.open(), ["applied"], After(0, 0, {})),
    Row("an overdraft of 2^53-1 can be set", do.open(overdraft=MAX_AMOUNT), ["applied"],
        After(0, 0, {})),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_open(account: Account, row: Row) -> None:
    row.check(account)


def test_a_shard_that_was_emptied_takes_no_account_again(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.debit("d", 60)
    account.redis.flushdb()
    # Sent again by a worker that does not know yet: it would give out again what was spent.
    assert account.call("open", 1, 1, "active", 0) == ["fenced"]
    assert account.redis.dbsize() == 0


@pytest.mark.parametrize("overdraft", [0, 1, MAX_AMOUNT])
def test_an_account_opens_with_its_status_overdraft_and_reason(
    account: Account, overdraft: int
) -> None:
    account.gen = 7
    account.open(status="suspended", overdraft=overdraft, reason="chargeback")
    assert account.balance() == ["ok", "suspended", 0, 0, overdraft, 7, 0, 1, ANY, []]
    assert account.hold("h", 1) == ["suspended", "chargeback"]
    check_consistent(account)


def with_everything(account: Account) -> Account:
    """Let every key of the account be there, and return it."""
    account.open(overdraft=50)
    account.grant(1, 100, expires_at_ms=4_000_000_000_000)
    account.grant(2, 100)
    account.debit("d", 10)
    account.hold("h", 20)
    there = [key for key in account.keys if account.redis.exists(key)]
    assert len(there) == 8, "all keys but the answers of the other day"
    return account


@pytest.mark.parametrize("epochs", [(1, 2), (9, 10), (2, 10)])
def test_what_an_older_epoch_left_goes(account: Account, epochs: tuple[int, int]) -> None:
    old, new = epochs
    with_everything(Account(account.client, epoch=old))
    other = Account(account.client, "other", epoch=new, is_alone=False)
    reopened = Account(account.client, epoch=new, gen=2, is_alone=False)
    assert reopened.open() == ["applied"]
    assert reopened.balance() == ["ok", "active", 0, 0, 0, 2, 0, 1, ANY, []]
    assert reopened.debit("d", 0) == ["debited", 0, 0, 0], "not a replay of the old life"
    assert reopened.settle("h", 1) == ["hold_not_found"]
    assert other.shard != reopened.shard or other.open() == ["applied"]
    check_consistent(reopened)


@pytest.mark.parametrize("missing", [0, 1, 2, 3, 4])
def test_what_is_left_of_an_account_that_lost_a_key_goes(account: Account, missing: int) -> None:
    with_everything(account)
    account.redis.delete(account.keys[0], account.keys[missing])
    reopened = Account(account.client, epoch=2, gen=2, is_alone=False)
    assert reopened.open() == ["applied"]
    reopened.grant(1, 7)
    assert reopened.balance()[1:5] == ["active", 7, 0, 0]
    check_consistent(reopened)


def test_an_account_may_open_without_a_reason(account: Account) -> None:
    begin_stream(account.redis, account.keys[8])
    assert account.call("open", 1, 1, "closed", 0) == ["applied"]
    assert account.hold("h", 1) == ["closed", ""]


def test_an_account_that_was_opened_waits_for_nothing(account: Account) -> None:
    account.open()
    assert account.expire() == ["done", 0, 999_999_999_999_999]
