"""status, by its header:

1. What every refill refuses first: unknown, fenced, stale, replayed, gap.
2. Status, overdraft and reason are set, all of them each time; no credit moves.
"""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.support import Account
from tests.lua.table import After, Row, do, funded, refill_first

ROWS = [
    *refill_first("status", "closed", 7),
    *(
        Row(f"{status} is set", do.status(status, overdraft), ["applied"], After(40, 60, {1: 40}),
            before=[*funded(), do.hold("h", 60)])
        for status, overdraft in [("active", 0), ("grace", 1), ("suspended", 5),
                                  ("closed", MAX_AMOUNT)]
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_status(account: Account, row: Row) -> None:
    row.check(account)


@pytest.mark.parametrize("overdraft", [0, 1, MAX_AMOUNT])
def test_status_and_overdraft_are_told_by_the_balance(account: Account, overdraft: int) -> None:
    account.open(overdraft=9)
    account.status("grace", overdraft)
    assert account.balance() == ["ok", "grace", 0, 0, overdraft, 1, 0, 2, ANY, []]


def test_the_reason_is_the_latest_one(account: Account) -> None:
    account.open(reason="never shown")
    account.status("suspended", 0, "first")
    account.status("suspended", 0, "second")
    assert account.hold("h", 1) == ["suspended", "second"]
    account.call("status", 1, 4, "suspended", 0)
    assert account.hold("h", 1) == ["suspended", ""]


def test_an_account_that_is_active_again_may_spend(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.status("suspended")
    account.status("active")
    assert account.debit("d", 100) == ["debited", 0, 100, 0]


def test_a_lower_overdraft_counts_from_the_next_call(account: Account) -> None:
    account.open(overdraft=50)
    account.debit("d", 30)
    account.status("active", 20)
    assert account.debit("e", 1) == ["insufficient", -30, 20]
