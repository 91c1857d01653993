"""grant, by its header:

1. What every refill refuses first: unknown, fenced, stale, replayed, gap.
2. More than 2^53-1 available is refused.
3. The amount is available, at the bounds 0, 1 and 2^53-1, and burns in its place in the order.
4. It covers an overdraft that was charged, not one that is held.
5. It ends at its time; one that came after its time ends at once and covers nothing.
"""

from __future__ import annotations

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.support import HOUR_MS, Account
from tests.lua.table import After, Row, do, funded, refill_first

FAR_MS = 4_000_000_000_000
OVERDRAWN = [do.open(overdraft=50), do.debit("d", 30)]

ROWS = [
    *refill_first("grant", 2, 10),
    Row("one more than 2^53-1 available is out of range", do.grant(2, 1), ["out_of_range"],
        before=funded(MAX_AMOUNT)),
    Row("replayed comes before out of range", do.grant(2, 1, refill_no=2), ["replayed", 2],
        before=funded(MAX_AMOUNT)),
    Row("the first grant is available", do.grant(1, 100), ["applied"], After(100, 0, {1: 100}),
        before=[do.open()]),
    Row("another grant adds to it", do.grant(2, 10), ["applied"],
        After(110, 0, {1: 100, 2: 10}), before=funded()),
    Row("a grant of nothing", do.grant(2, 0), ["applied"], After(100, 0, {1: 100, 2: 0}),
        before=funded()),
    Row("a first grant of nothing", do.grant(1, 0), ["applied"], After(0, 0, {1: 0}),
        before=[do.open()]),
    Row("an earlier grant of nothing", do.grant(2, 0, category="promo"), ["applied"],
        After(100, 0, {1: 100, 2: 0}), before=funded()),
    Row("1 is available", do.grant(1, 1), ["applied"], After(1, 0, {1: 1}), before=[do.open()]),
    Row("2^53-1 is available", do.grant(1, MAX_AMOUNT), ["applied"],
        After(MAX_AMOUNT, 0, {1: MAX_AMOUNT}), before=[do.open()]),
    Row("2^53-1 in two grants", do.grant(2, 1), ["applied"],
        After(MAX_AMOUNT, 0, {1: MAX_AMOUNT - 1, 2: 1}), before=funded(MAX_AMOUNT - 1)),
    Row("a suspended account gets its grant", do.grant(2, 10), ["applied"],
        After(110, 0, {1: 100, 2: 10}), before=[*funded(), do.status("suspended")]),
    Row("an earlier grant becomes the head", do.grant(2, 10, category="promo"), ["applied"],
        After(50, 60, {1: 40, 2: 10}), before=[*funded(), do.hold("h", 60)]),
    Row("a later grant follows an empty head", do.grant(2, 10), ["applied"],
        After(10, 100, {1: 0, 2: 10}), before=[*funded(), do.hold("h", 100)]),
    Row("an earlier grant displaces an empty head", do.grant(2, 10, category="promo"),
        ["applied"], After(10, 100, {1: 0, 2: 10}), before=[*funded(), do.hold("h", 100)]),
    Row("an overdraft that was charged is covered", do.grant(1, 100), ["applied"],
        After(70, 0, {1: 70}, [("cover", "", 0, 0, 0, {1: 30, 0: -30})]), before=OVERDRAWN),
    Row("a grant that is too small covers what it can", do.grant(1, 10), ["applied"],
        After(-20, 0, {1: 0}, [("cover", "", 0, 0, 0, {1: 10, 0: -10})]), before=OVERDRAWN),
    Row("the next one covers the rest", do.grant(2, 20), ["applied"],
        After(0, 0, {1: 0, 2: 0}, [("cover", "", 0, 0, 0, {2: 20, 0: -20})]),
        before=[*OVERDRAWN, do.grant(1, 10)]),
    Row("an overdraft that is only held is not covered", do.grant(1, 100), ["applied"],
        After(70, 30, {1: 100}), before=[do.open(overdraft=50), do.hold("h", 30)]),
    Row("of an overdraft charged and held only what was charged is covered", do.grant(1, 100),
        ["applied"],
        After(50, 20, {1: 70}, [("cover", "", 0, 0, 0, {1: 30, 0: -30})]),
        before=[*OVERDRAWN, do.hold("h", 20)]),
    Row("a grant of nothing covers nothing", do.grant(1, 0), ["applied"], After(-30, 0, {1: 0}),
        before=OVERDRAWN),
    Row("a grant after its time ends at once", do.grant(2, 10, expires_at_ms=1_000),
        ["applied"],
        After(100, 0, {1: 100}, [("expire", "grant:2", 10, 0, 0, {2: 10})]), before=funded()),
    Row("a grant after its time covers nothing", do.grant(1, 100, expires_at_ms=1_000),
        ["applied"],
        After(-30, 0, {}, [("expire", "grant:1", 100, 0, 0, {1: 100})]), before=OVERDRAWN),
    Row("what is due is ended", do.grant(2, 10), ["applied"],
        After(110, 0, {1: 100, 2: 10}),
        before=[*funded(), do.hold("h", 60), do.pass_time(HOUR_MS)]),
    Row("what is due covers nothing", do.grant(3, 5), ["applied"],
        After(-25, 0, {3: 0}, [("expire", "grant:1", 40, 0, 0, {1: 40}),
                               ("cover", "", 0, 0, 0, {3: 5, 0: -5})]),
        before=[do.open(overdraft=50), do.grant(1, 40, expires_at_ms=FAR_MS), do.hold("h", 40),
                do.debit("d", 30), do.due("h:h", 1), do.due("g:1", 2)]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_grant(account: Account, row: Row) -> None:
    row.check(account)


def test_a_grant_with_a_time_ends_then(account: Account) -> None:
    account.open()
    account.grant(1, 100, expires_at_ms=FAR_MS)
    assert account.redis.zscore(account.keys[4], "g:1") == FAR_MS
    assert account.number("next_expiry") == FAR_MS


def test_a_grant_without_a_time_waits_for_nothing(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    assert account.redis.zcard(account.keys[4]) == 0


def test_a_grant_keeps_its_id_for_people(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    assert account.balance()[9][3] == "grant-1"


def test_the_refill_is_counted_once_it_is_applied(account: Account) -> None:
    account.open()
    assert account.grant(1, 10, refill_no=3) == ["gap", 1]
    assert account.grant(1, 10, refill_no=2) == ["applied"]
    assert account.grant(2, 10, refill_no=3) == ["applied"]
    assert account.refill_no() == 3
