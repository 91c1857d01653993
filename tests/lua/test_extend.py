"""extend, by its header:

1. What every script refuses first: an unknown account, another epoch, too much due to expire.
2. No hold of the id: not found; the id of a debit or refund: a conflict.
3. A hold that has ended stays so (I3).
4. The amount that it has already, and no time, is a replay; an amount with a time is not.
5. A smaller amount is refused: an amount is the new total.
6. A suspended or closed account may not extend; what is lacking must be there (I2), bounds 0, 1 and
   2^53-1.
7. Only what is lacking is set aside; what was charged already counts, and a hold that was charged
   above its amount needs less.
8. A time is counted from now, and may be shorter than what was left.
"""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.consistent import check_consistent
from tests.lua.support import AMOUNT, EXPIRES, HELD, Account
from tests.lua.table import After, Row, again_first, do, funded, refused_first

HOLD = [*funded(), do.hold("h", 60, price_version="v1")]

ROWS = [
    *refused_first(do.extend("h", 70)),
    again_first(do.extend("h", 70)),
    Row("no hold of the id is not found", do.extend("h", 70), ["hold_not_found"], before=funded()),
    Row("a debit is a conflict", do.extend("d", 70), ["conflict"],
        before=[*funded(), do.debit("d", 40)]),
    Row("a refund is a conflict", do.extend("r", 70), ["conflict"],
        before=[*funded(), do.debit("d", 40), do.refund("r", "d")]),
    Row("a hold that was settled is refused", do.extend("h", 70), ["hold_settled"],
        before=[*HOLD, do.settle("h", 40)]),
    Row("a hold that was released is refused", do.extend("h", 70), ["hold_released"],
        before=[*HOLD, do.release("h")]),
    Row("a hold that expired is refused", do.extend("h", 70), ["hold_expired"],
        before=[*HOLD, do.pass_time(4_000_000), do.expire()]),
    Row("the amount that it has is a replay", do.extend("h", 60),
        ["held", 1, 60, 40, ANY, 0, "v1"], before=HOLD),
    Row("a replay has the first figures", do.extend("h", 70),
        ["held", 1, 70, 30, ANY, 0, "v1"], before=[*HOLD, do.extend("h", 70), do.debit("d", 30)]),
    Row("a replay of a partial hold is an ordinary hold", do.extend("h", 100),
        ["held", 1, 100, 0, ANY, 0, ""], before=[*funded(), do.hold("h", 150, partial=1)]),
    Row("a replay comes before suspended", do.extend("h", 60),
        ["held", 1, 60, 40, ANY, 0, "v1"], before=[*HOLD, do.status("suspended")]),
    Row("a smaller amount is refused", do.extend("h", 59), ["lowered", 60], before=HOLD),
    Row("a smaller amount with a time is refused", do.extend("h", 59, 9_000), ["lowered", 60],
        before=HOLD),
    Row("lowered comes before suspended", do.extend("h", 59), ["lowered", 60],
        before=[*HOLD, do.status("suspended")]),
    Row("a suspended account may not extend", do.extend("h", 70), ["suspended", "late"],
        before=[*HOLD, do.status("suspended", 0, "late")]),
    Row("a suspended account may not extend the time", do.extend("h", 0, 9_000),
        ["suspended", "late"], before=[*HOLD, do.status("suspended", 0, "late")]),
    Row("a closed account may not extend", do.extend("h", 70), ["closed", "left"],
        before=[*HOLD, do.status("closed", 0, "left")]),
    Row("an account in grace may extend", do.extend("h", 61), ["held", 0, 61, 39, ANY, 0, "v1"],
        After(39, 61, {1: 39}), before=[*HOLD, do.status("grace")], replays=True),
    Row("more than 2^53-1 held is out of range", do.extend("h", 1), ["out_of_range"],
        before=[*funded(MAX_AMOUNT, overdraft=MAX_AMOUNT), do.hold("a", MAX_AMOUNT),
                do.hold("h", 0)]),
    Row("one more than there is is insufficient", do.extend("h", 101),
        ["insufficient", 40, 0, 41], before=HOLD),
    Row("one more than with the overdraft is insufficient", do.extend("h", 111),
        ["insufficient", 40, 10, 51], before=[*HOLD, do.status("active", 10)]),
    Row("2^53-1 is insufficient by one", do.extend("h", MAX_AMOUNT),
        ["insufficient", MAX_AMOUNT - 2, 0, MAX_AMOUNT - 1],
        before=[*funded(MAX_AMOUNT - 1), do.hold("h", 1)]),
    Row("what is lacking is set aside", do.extend("h", 70), ["held", 0, 70, 30, ANY, 0, "v1"],
        After(30, 70, {1: 30}), before=HOLD, replays=True),
    Row("1 more is set aside", do.extend("h", 61), ["held", 0, 61, 39, ANY, 0, "v1"],
        After(39, 61, {1: 39}), before=HOLD, replays=True),
    Row("a hold of nothing can grow to 1", do.extend("h", 1), ["held", 0, 1, 99, ANY, 0, ""],
        After(99, 1, {1: 99}), before=[*funded(), do.hold("h", 0)], replays=True),
    Row("all that there is can be set aside", do.extend("h", 100),
        ["held", 0, 100, 0, ANY, 0, "v1"], After(0, 100, {1: 0}), before=HOLD, replays=True),
    Row("2^53-1 can be set aside", do.extend("h", MAX_AMOUNT),
        ["held", 0, MAX_AMOUNT, 0, ANY, 0, ""], After(0, MAX_AMOUNT, {1: 0}),
        before=[*funded(MAX_AMOUNT), do.hold("h", 1)], replays=True),
    Row("what grants lack comes from the overdraft", do.extend("h", 110),
        ["held", 0, 110, -10, ANY, 0, "v1"], After(-10, 110, {1: 0}),
        before=[*HOLD, do.status("active", 10)], replays=True),
    Row("what was charged counts", do.extend("h", 70), ["held", 0, 70, 30, ANY, 0, "v1"],
        After(30, 30, {1: 30}), before=[*HOLD, do.settle("h", 40, final=0)], replays=True),
    Row("charged above its amount, it needs less", do.extend("h", 90),
        ["held", 0, 90, 10, ANY, 0, "v1"], After(10, 10, {1: 10}),
        before=[*HOLD, do.settle("h", 80, final=0)], replays=True),
    Row("charged above the new amount, it needs nothing", do.extend("h", 70),
        ["held", 0, 70, 20, ANY, 0, "v1"], After(20, 0, {1: 20}),
        before=[*HOLD, do.settle("h", 80, final=0)], replays=True),
    Row("with nothing to set aside it may be below zero", do.extend("h", 65),
        ["held", 0, 65, -30, ANY, 0, "v1"], After(-30, 0, {1: 0}),
        before=[*HOLD, do.settle("h", 130, final=0)], replays=True),
    Row("a time alone leaves the amount", do.extend("h", 0, 9_000),
        ["held", 0, 60, 40, ANY, 0, "v1"], After(40, 60, {1: 40}), before=HOLD),
    Row("the same amount with a time is not a replay", do.extend("h", 60, 9_000),
        ["held", 0, 60, 40, ANY, 0, "v1"], After(40, 60, {1: 40}), before=HOLD),
    Row("an amount and a time", do.extend("h", 70, 9_000),
        ["held", 0, 70, 30, ANY, 0, "v1"], After(30, 70, {1: 30}), before=HOLD),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_extend(account: Account, row: Row) -> None:
    row.check(account)


def test_what_was_added_is_part_of_the_hold(account: Account) -> None:
    account.open(overdraft=5)
    account.grant(1, 10)
    account.grant(2, 20)
    account.hold("h", 15)
    account.extend("h", 35)
    record = account.holds()["h"]
    assert (record[AMOUNT], record[HELD]) == (35, [1, 10, 2, 20, 0, 5])


@pytest.mark.parametrize("ttl_ms", [1_000, 9_000_000])
def test_a_time_is_counted_from_now_shorter_or_longer(account: Account, ttl_ms: int) -> None:
    account.open()
    account.hold("h", 0)
    before_ms = account.now_ms()
    expires_at_ms = account.extend("h", 0, ttl_ms)[4]
    assert before_ms + ttl_ms <= expires_at_ms <= account.now_ms() + ttl_ms
    assert account.redis.zscore(account.keys[4], "h:h") == expires_at_ms
    assert account.holds()["h"][EXPIRES] == expires_at_ms


def test_without_a_time_it_ends_when_it_would_have(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    expires_at_ms = account.hold("h", 10)[4]
    assert account.extend("h", 20)[4] == expires_at_ms
    assert account.redis.zscore(account.keys[4], "h:h") == expires_at_ms


def test_a_hold_that_got_more_time_does_not_end_at_its_first_time(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.hold("h", 10, ttl_ms=1_000)
    account.extend("h", 0, 9_000_000)
    account.pass_time(2_000)
    assert account.expire()[:2] == ["done", 0]
    assert "h" in account.holds()


def test_an_extend_writes_no_event(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.hold("h", 10)
    account.extend("h", 20)
    assert account.events() == []


def test_what_was_added_from_the_same_grant_is_charged_with_the_rest(account: Account) -> None:
    account.open()
    account.grant(1, 10)
    account.grant(2, 20)
    account.hold("h", 15)
    account.extend("h", 30)
    assert account.settle("h", 20) == ["settled", 0, 20, 10, 10, 0]
    assert account.events()[-1].parts() == {1: 10, 2: 10}
    check_consistent(account)
