"""open, by its header:

1. Another epoch is fenced, another generation stale, and an open account is left as it is.
2. Otherwise the account is there, with nothing available, refill 1, its status and overdraft.
"""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.consistent import check_consistent
from tests.lua.support import Account
from tests.lua.table import After, Row, do, funded

ROWS = [
    Row("another epoch is fenced", do.open(), ["fenced"], before=[*funded(), do.use(epoch=2)]),
    Row("another epoch is fenced whatever the generation", do.open(gen=2), ["fenced"],
        before=[*funded(), do.use(epoch=2)]),
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


@pytest.mark.parametrize("overdraft", [0, 1, MAX_AMOUNT])
def test_an_account_opens_with_its_status_overdraft_and_reason(
    account: Account, overdraft: int
) -> None:
    account.gen = 7
    account.open(status="suspended", overdraft=overdraft, reason="chargeback")
    assert account.balance() == ["ok", "suspended", 0, 0, overdraft, 7, 0, 1, ANY, []]
    assert account.hold("h", 1) == ["suspended", "chargeback"]
    check_consistent(account)


def test_an_account_may_open_without_a_reason(account: Account) -> None:
    assert account.call("open", 1, 1, "closed", 0) == ["applied"]
    assert account.hold("h", 1) == ["closed", ""]


def test_an_account_that_was_opened_waits_for_nothing(account: Account) -> None:
    account.open()
    assert account.expire() == ["done", 0, 999_999_999_999_999]
