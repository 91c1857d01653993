"""restore, by its header:

1. What every refill refuses first: unknown, fenced, stale, replayed, gap.
2. What was charged is available again, in the grants that it came from, without a usage event;
   what came from a grant that has expired expires, what came from the overdraft is paid back.
3. What comes back covers an overdraft that others charged.
4. What a refund gave back, which the ledger dropped, goes again; where it is gone, below zero.
"""

from __future__ import annotations

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.support import Account
from tests.lua.table import After, Row, do, funded, refill_first

FAR_MS = 4_000_000_000_000
DEBITED = [*funded(), do.debit("d", 60)]

ROWS = [
    *refill_first("restore", [1, 10]),
    Row("what was charged is available again", do.restore([1, 60]), ["applied"],
        After(100, 0, {1: 100}), before=DEBITED),
    Row("1 is available again", do.restore([1, 1]), ["applied"], After(41, 0, {1: 41}),
        before=DEBITED),
    Row("2^53-1 is available again", do.restore([1, MAX_AMOUNT]), ["applied"],
        After(MAX_AMOUNT, 0, {1: MAX_AMOUNT}),
        before=[*funded(MAX_AMOUNT), do.debit("d", MAX_AMOUNT)]),
    Row("nothing restores nothing", do.restore([]), ["applied"], After(40, 0, {1: 40}),
        before=DEBITED),
    Row("it goes back to each grant and to the overdraft", do.restore([1, 20, 2, 20, 0, 5]),
        ["applied"], After(40, 0, {1: 20, 2: 20}),
        before=[do.open(overdraft=10), do.grant(1, 20), do.grant(2, 20), do.debit("d", 45)]),
    Row("what came from an expired grant expires", do.restore([1, 10]), ["applied"],
        After(0, 0, {}, [("expire", "grant:1", 10, 0, 0, {1: 10})]),
        before=[do.open(), do.grant(1, 10, expires_at_ms=FAR_MS), do.debit("d", 10),
                do.expire_grant(1)]),
    Row("what comes back covers what others charged", do.restore([1, 60]), ["applied"],
        After(30, 0, {1: 30}, [("cover", "", 0, 0, 0, {1: 30, 0: -30})]),
        before=[*DEBITED, do.hold("h", 0), do.settle("h", 70)]),
    Row("a suspended account gets it too", do.restore([1, 60]), ["applied"],
        After(100, 0, {1: 100}), before=[*DEBITED, do.status("suspended")]),
    Row("a refund that was dropped goes again", do.restore([1, -60]), ["applied"],
        After(40, 0, {1: 40}), before=[*DEBITED, do.refund("r", "d")]),
    Row("a refund that was dropped goes again though a part of it is spent",
        do.restore([1, -60]), ["applied"],
        After(-30, 0, {1: 0}, [("cover", "", 0, 0, 0, {1: -30, 0: 30})]),
        before=[*DEBITED, do.refund("r", "d"), do.debit("e", 70)]),
    Row("a refund that was dropped goes again from a grant that is not the head",
        do.restore([2, -10]), ["applied"], After(110, 0, {1: 100, 2: 10}),
        before=[*funded(), do.grant(2, 20)]),
    Row("a refund that was dropped goes again from a grant that has expired",
        do.restore([1, -10]), ["applied"],
        After(-10, 0, {}, [("cover", "", 0, 0, 0, {1: -10, 0: 10})]),
        before=[do.open(), do.grant(1, 10, expires_at_ms=FAR_MS), do.debit("d", 10),
                do.expire_grant(1), do.refund("r", "d")]),
    Row("a refund to the overdraft that was dropped goes again", do.restore([0, -5]), ["applied"],
        After(-5, 0, {}), before=[do.open(overdraft=10), do.debit("d", 5), do.refund("r", "d")]),
    Row("what is due is ended before", do.restore([1, 10]), ["applied"],
        After(0, 0, {}, [("expire", "grant:1", 40, 0, 0, {1: 40}),
                         ("expire", "grant:1", 10, 0, 0, {1: 10})]),
        before=[do.open(), do.grant(1, 50, expires_at_ms=FAR_MS), do.debit("d", 10),
                do.due("g:1", 1)]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_restore(account: Account, row: Row) -> None:
    row.check(account)
