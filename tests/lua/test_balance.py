"""balance, by its header:

1. What every script refuses first: an unknown account, another epoch, too much due to expire.
2. It tells the account as it is, with nothing changed but what was due.
3. With grants it lists those that have something left, in burn order, at most 1,000.
"""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from sidecar.domain import MAX_AMOUNT, burn_order
from tests.lua.support import HOUR_MS, Account
from tests.lua.table import After, Row, again_first, do, funded, refused_first

ONE = burn_order(50, None, "paid", 1)
TWO = burn_order(50, None, "promo", 2)
BIG = [do.open(overdraft=MAX_AMOUNT), do.grant(1, MAX_AMOUNT)]


def listed(grant_no: int, left: int, order: str) -> list[int | str]:
    return [grant_no, left, order, f"grant-{grant_no}"]


ROWS = [
    *refused_first(do.balance()),
    again_first(do.balance()),
    Row("an empty account has nothing", do.balance(),
        ["ok", "active", 0, 0, 0, 1, 0, 1, ANY, []], before=[do.open()]),
    Row("available and held are told", do.balance(),
        ["ok", "active", 40, 60, 5, 1, 0, 2, ANY, listed(1, 40, ONE)],
        before=[*funded(overdraft=5), do.hold("h", 60)]),
    Row("below zero is told", do.balance(),
        ["ok", "suspended", -30, 0, 0, 1, 1, 3, ANY, []],
        before=[*funded(), do.hold("h", 0), do.settle("h", 130), do.status("suspended")]),
    Row("2^53-1 is told exactly", do.balance(),
        ["ok", "active", MAX_AMOUNT, 0, MAX_AMOUNT, 1, 0, 2, ANY, listed(1, MAX_AMOUNT, ONE)],
        before=BIG),
    Row("1 is told", do.balance(), ["ok", "active", 1, 0, 0, 1, 0, 2, ANY, listed(1, 1, ONE)],
        before=funded(1)),
    Row("without grants the list is empty", do.balance(0),
        ["ok", "active", 100, 0, 0, 1, 0, 2, ANY, []], before=funded()),
    Row("grants are in burn order with what is left", do.balance(),
        ["ok", "active", 120, 10, 0, 1, 0, 3, ANY, listed(2, 20, TWO) + listed(1, 100, ONE)],
        before=[*funded(), do.grant(2, 30, category="promo"), do.hold("h", 10)]),
    Row("a grant that is used up is not listed", do.balance(),
        ["ok", "active", 100, 30, 0, 1, 0, 3, ANY, listed(1, 100, ONE)],
        before=[*funded(), do.grant(2, 30, category="promo"), do.hold("h", 30)]),
    Row("what is due is ended first", do.balance(),
        ["ok", "active", 100, 0, 0, 1, 0, 2, ANY, listed(1, 100, ONE)], After(100, 0, {1: 100}),
        before=[*funded(), do.hold("h", 60), do.pass_time(HOUR_MS)]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_balance(account: Account, row: Row) -> None:
    row.check(account)


def test_the_clock_of_redis_is_told(account: Account) -> None:
    account.open()
    before_ms = account.now_ms()
    assert before_ms <= account.balance()[8] <= account.now_ms()


def test_at_most_1000_grants_are_listed(account: Account) -> None:
    account.open()
    for grant_no in range(1, 1_003):
        account.grant(grant_no, 1)
    grants = account.balance()[9]
    assert grants[::4] == list(range(1, 1_001))
