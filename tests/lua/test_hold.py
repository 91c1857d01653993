"""hold, by its header:

1. What every script refuses first: an unknown account, another epoch, too much due to expire.
2. The same hold again gets the first answer again; another request under its id is a conflict,
   and so is the id of a debit or refund. This comes before all that the account may refuse.
3. A suspended or closed account may not hold, and says why; one in grace may.
4. Never more than available + overdraft (I2), at the bounds 0, 1 and 2^53-1.
5. A partial hold is made smaller, never with overdraft, and refused with nothing available.
6. A hold takes from grants in burn order, then from the overdraft, and sets aside what it took.
7. It lives for its time, by the clock of Redis.
"""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.consistent import check_consistent
from tests.lua.support import AMOUNT, HELD, HOUR_MS, Account
from tests.lua.table import After, Row, again_first, do, funded, refused_first

FAR_MS = 4_000_000_000_000

ROWS = [
    *refused_first(do.hold("h", 60)),
    again_first(do.hold("h", 60)),
    Row(
        "more than 2^53-1 held is out of range",
        do.hold("h", 1),
        ["out_of_range"],
        before=[*funded(MAX_AMOUNT, overdraft=MAX_AMOUNT), do.hold("a", MAX_AMOUNT)],
    ),
    Row(
        "credits are set aside",
        do.hold("h", 60, price_version="v1"),
        ["held", 0, 60, 40, ANY, 0, "v1"],
        After(available=40, held=60, left={1: 40}),
        before=funded(),
        replays=True,
    ),
    Row(
        "another amount under the id is a conflict",
        do.hold("h", 61),
        ["conflict"],
        before=[*funded(), do.hold("h", 60)],
    ),
    Row(
        "the id of a debit is a conflict",
        do.hold("d", 10, fingerprint="same"),
        ["conflict"],
        before=[*funded(), do.debit("d", 10, fingerprint="same")],
    ),
    Row(
        "the id of a refund is a conflict",
        do.hold("r", 10, fingerprint="same"),
        ["conflict"],
        before=[*funded(), do.debit("d", 10), do.refund("r", "d", fingerprint="same")],
    ),
    Row(
        "a hold that was settled is still answered as the first time",
        do.hold("h", 60),
        ["held", 1, 60, 40, ANY, 0, ""],
        before=[*funded(), do.hold("h", 60), do.settle("h", 10)],
    ),
    Row(
        "a hold that expired is still answered as the first time",
        do.hold("h", 60),
        ["held", 1, 60, 40, ANY, 0, ""],
        before=[*funded(), do.hold("h", 60), do.pass_time(2 * HOUR_MS), do.expire()],
    ),
    Row(
        "a partial hold is answered as the first time, partial",
        do.hold("h", 160, partial=1),
        ["held", 1, 100, 0, ANY, 1, ""],
        before=[*funded(), do.hold("h", 160, partial=1), do.grant(2, 500)],
    ),
    Row(
        "a replay comes before suspended",
        do.hold("h", 60),
        ["held", 1, 60, 40, ANY, 0, ""],
        before=[*funded(), do.hold("h", 60), do.status("suspended")],
    ),
    Row(
        "a suspended account may not hold",
        do.hold("h", 1),
        ["suspended", "chargeback"],
        before=[*funded(), do.status("suspended", 0, "chargeback")],
    ),
    Row(
        "suspended comes before insufficient",
        do.hold("h", 101),
        ["suspended", ""],
        before=[*funded(), do.status("suspended")],
    ),
    Row(
        "a closed account may not hold",
        do.hold("h", 1),
        ["closed", "left"],
        before=[*funded(), do.status("closed", 0, "left")],
    ),
    Row(
        "an account in grace may hold",
        do.hold("h", 1),
        ["held", 0, 1, 99, ANY, 0, ""],
        After(available=99, held=1),
        before=[*funded(), do.status("grace")],
    ),
    Row("one more than there is is insufficient", do.hold("h", 101),
        ["insufficient", 100, 0], before=funded()),
    Row("with nothing granted one is insufficient", do.hold("h", 1),
        ["insufficient", 0, 0], before=[do.open()]),
    Row("one more than with the overdraft is insufficient", do.hold("h", 151),
        ["insufficient", 100, 50], before=funded(overdraft=50)),
    Row("2^53-1 is insufficient by one", do.hold("h", MAX_AMOUNT),
        ["insufficient", MAX_AMOUNT - 1, 0], before=funded(MAX_AMOUNT - 1)),
    Row("below zero even nothing is insufficient", do.hold("h", 0), ["insufficient", -1, 0],
        before=[*funded(), do.hold("a", 100), do.settle("a", 101)]),
    Row(
        "all that there is can be held",
        do.hold("h", 100),
        ["held", 0, 100, 0, ANY, 0, ""],
        After(available=0, held=100, left={1: 0}),
        before=funded(),
    ),
    Row(
        "nothing can be held when nothing is there",
        do.hold("h", 0),
        ["held", 0, 0, 0, ANY, 0, ""],
        After(available=0, held=0),
        before=[do.open()],
        replays=True,
    ),
    Row(
        "nothing can be held of a grant",
        do.hold("h", 0),
        ["held", 0, 0, 100, ANY, 0, ""],
        After(available=100, held=0, left={1: 100}),
        before=funded(),
    ),
    Row(
        "1 can be held",
        do.hold("h", 1),
        ["held", 0, 1, 0, ANY, 0, ""],
        After(available=0, held=1, left={1: 0}),
        before=funded(1),
    ),
    Row(
        "2^53-1 can be held",
        do.hold("h", MAX_AMOUNT),
        ["held", 0, MAX_AMOUNT, 0, ANY, 0, ""],
        After(available=0, held=MAX_AMOUNT, left={1: 0}),
        before=funded(MAX_AMOUNT),
        replays=True,
    ),
    Row(
        "an overdraft of 2^53-1 can be held",
        do.hold("h", MAX_AMOUNT),
        ["held", 0, MAX_AMOUNT, -MAX_AMOUNT, ANY, 0, ""],
        After(available=-MAX_AMOUNT, held=MAX_AMOUNT, left={}),
        before=[do.open(overdraft=MAX_AMOUNT)],
        replays=True,
    ),
    Row(
        "what grants lack comes from the overdraft",
        do.hold("h", 150),
        ["held", 0, 150, -50, ANY, 0, ""],
        After(available=-50, held=150, left={1: 0}),
        before=funded(overdraft=50),
    ),
    Row(
        "a second hold in the overdraft takes all that is left of it",
        do.hold("i", 20),
        ["held", 0, 20, -50, ANY, 0, ""],
        After(available=-50, held=150, left={1: 0}),
        before=[*funded(overdraft=50), do.hold("h", 130)],
    ),
    Row(
        "a partial hold that fits is an ordinary one",
        do.hold("h", 100, partial=1),
        ["held", 0, 100, 0, ANY, 0, ""],
        After(available=0, held=100, left={1: 0}),
        before=funded(),
        replays=True,
    ),
    Row(
        "a partial hold is made smaller",
        do.hold("h", 101, partial=1),
        ["held", 0, 100, 0, ANY, 1, ""],
        After(available=0, held=100, left={1: 0}),
        before=funded(),
        replays=True,
    ),
    Row(
        "a partial hold never uses the overdraft",
        do.hold("h", 120, partial=1),
        ["held", 0, 100, 0, ANY, 1, ""],
        After(available=0, held=100, left={1: 0}),
        before=funded(overdraft=500),
    ),
    Row("a partial hold of nothing available is insufficient", do.hold("h", 1, partial=1),
        ["insufficient", 0, 500], before=[do.open(overdraft=500)]),
    Row("a partial hold below zero is insufficient", do.hold("h", 1, partial=1),
        ["insufficient", -100, 500],
        before=[do.open(overdraft=500), do.hold("a", 100)]),
    Row("a partial hold of nothing below zero is insufficient", do.hold("h", 0, partial=1),
        ["insufficient", -100, 500],
        before=[do.open(overdraft=500), do.hold("a", 100)]),
    Row(
        "lower priority burns first",
        do.hold("h", 15),
        ["held", 0, 15, 25, ANY, 0, ""],
        After(available=25, held=15, left={1: 5, 2: 10, 3: 0, 4: 10}),
        before=[do.open(), do.grant(1, 10, priority=50), do.grant(2, 10, priority=100),
                do.grant(3, 10, priority=0), do.grant(4, 10, priority=51)],
    ),
    Row(
        "then what expires soonest, never last",
        do.hold("h", 25),
        ["held", 0, 25, 5, ANY, 0, ""],
        After(available=5, held=25, left={1: 5, 2: 0, 3: 0}),
        before=[do.open(), do.grant(1, 10), do.grant(2, 10, expires_at_ms=FAR_MS + 1),
                do.grant(3, 10, expires_at_ms=FAR_MS)],
    ),
    Row(
        "of two that expire the sooner burns first",
        do.hold("h", 5),
        ["held", 0, 5, 15, ANY, 0, ""],
        After(available=15, held=5, left={1: 10, 2: 5}),
        before=[do.open(), do.grant(1, 10, expires_at_ms=FAR_MS + 1),
                do.grant(2, 10, expires_at_ms=FAR_MS)],
    ),
    Row(
        "then promo, allowance, adjustment, paid",
        do.hold("h", 35),
        ["held", 0, 35, 5, ANY, 0, ""],
        After(available=5, held=35, left={1: 5, 2: 0, 3: 0, 4: 0}),
        before=[do.open(), do.grant(1, 10, category="paid"), do.grant(2, 10, category="adjustment"),
                do.grant(3, 10, category="allowance"), do.grant(4, 10, category="promo")],
    ),
    Row(
        "promo before allowance, though it is younger",
        do.hold("h", 5),
        ["held", 0, 5, 15, ANY, 0, ""],
        After(available=15, held=5, left={3: 10, 4: 5}),
        before=[do.open(), do.grant(3, 10, category="allowance"),
                do.grant(4, 10, category="promo")],
    ),
    Row(
        "then the oldest",
        do.hold("h", 15),
        ["held", 0, 15, 15, ANY, 0, ""],
        After(available=15, held=15, left={9: 0, 10: 5, 100: 10}),
        before=[do.open(), do.grant(10, 10), do.grant(9, 10), do.grant(100, 10)],
    ),
    Row(
        "an earlier grant displaces a head that was begun",
        do.hold("h", 20),
        ["held", 0, 20, 80, ANY, 0, ""],
        After(available=80, held=30, left={1: 80, 2: 0}),
        before=[*funded(), do.hold("a", 10), do.grant(2, 10, category="promo")],
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_hold(account: Account, row: Row) -> None:
    row.check(account)


def test_a_hold_lives_for_its_time_by_the_clock_of_redis(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    before_ms = account.now_ms()
    expires_at_ms = account.hold("h", 60, ttl_ms=5_000)[4]
    assert before_ms + 5_000 <= expires_at_ms <= account.now_ms() + 5_000
    assert account.redis.zscore(account.keys[4], "h:h") == expires_at_ms
    assert account.number("next_expiry") == expires_at_ms


def test_the_soonest_expiry_of_several_holds_is_the_next(account: Account) -> None:
    account.open(overdraft=100)
    account.hold("late", 1, ttl_ms=9_000)
    soonest = account.hold("soon", 1, ttl_ms=5_000)[4]
    account.hold("later", 1, ttl_ms=19_000)
    assert account.number("next_expiry") == soonest


def test_a_hold_keeps_what_it_took_from_which_grant(account: Account) -> None:
    account.open(overdraft=7)
    account.grant(1, 10)
    account.grant(2, 10, category="promo")
    account.hold("h", 27)
    record = account.holds()["h"]
    assert (record[AMOUNT], record[HELD]) == (27, [2, 10, 1, 10, 0, 7])


def test_a_hold_may_empty_1000_grants_and_the_next_cover_does_the_rest(account: Account) -> None:
    account.open(overdraft=5_000)
    for grant_no in range(1, 1037):
        account.grant(grant_no, 1)
    assert account.hold("h", 1036)[:4] == ["held", 0, 1036, 0]
    record = account.holds()["h"]
    assert record[HELD] == [n for no in range(1, 1001) for n in (no, 1)] + [0, 36]
    check_consistent(account)
    assert account.settle("h", 1036) == ["settled", 0, 1036, 0, 0, 0]
    check_consistent(account)
    assert sum(account.left().values()) == 0


def test_a_hold_writes_no_event(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.hold("h", 60)
    assert account.events() == []
